"""Photometer behind an OPC UA LADS server.

Source: OPC 30500-1 LADS 1.0.0. `driver` is what the edge sees, `unit` speaks to any LADS functional unit.
"""

from drivers.sensors.lads_photometer.driver import LadsPhotometer

__all__ = ["LadsPhotometer"]
