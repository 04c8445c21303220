"""What an app does by itself where a framework is in use."""
