"""The wire, instrument-free: bytes, registers, nodes and topics, each with a deadline."""
