"""What the bare interpreter costs: taken off the others."""
