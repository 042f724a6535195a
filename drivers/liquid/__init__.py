"""Liquid handling: pumps, dispensers."""
