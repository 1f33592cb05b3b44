"""Rows from tables in memory and from files: one reader a kind, behind `source.open_source`."""
