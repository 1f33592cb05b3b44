"""Layers that read a history with regard to a candidate."""
