"""What a detector is worth, and what it says about one file."""
