"""What every row becomes."""
