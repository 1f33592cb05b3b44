"""Encoded rows as batches."""
