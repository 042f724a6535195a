"""labedge: the daemon at the bench, between planners on MQTT and instruments on their wires."""

__version__ = "0.1.0"
