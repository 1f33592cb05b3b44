"""The commands, one a module: a function whose signature is its options."""
