"""Arms and plate movers."""
