"""Photometer behind an OPC UA LADS server; `driver` is what the edge sees."""

from drivers.sensors.lads_photometer.driver import LadsPhotometer

__all__ = ["LadsPhotometer"]
