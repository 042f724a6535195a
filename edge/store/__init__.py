"""Everything durable: one SQLite file, one writer."""
