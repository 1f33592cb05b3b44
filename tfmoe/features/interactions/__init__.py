"""Layers between the encoder and the structure, in which columns meet."""
