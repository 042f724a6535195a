"""Instruments: one file each, a table of commands and short methods."""
