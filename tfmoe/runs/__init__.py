"""Whole trainings as plain data: files that say one, and a search for the best of many."""
