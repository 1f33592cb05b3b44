"""Measurements of the package and of what people use today: `python -m benchmarks --help`."""
