"""Type checkers see what a task takes and gives."""
