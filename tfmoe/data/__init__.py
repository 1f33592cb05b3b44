"""Reading tables of raw rows and turning them into ids and floats."""
