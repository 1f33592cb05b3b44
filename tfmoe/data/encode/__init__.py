"""What every row becomes: in NumPy (`rows`), and as a TensorFlow graph (`graph`)."""
