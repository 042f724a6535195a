"""Balances, probes, photometers."""
