"""What is fitted: one pass over the rows, what it comes to, and how that is kept."""
