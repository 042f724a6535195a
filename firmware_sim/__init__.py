"""The bench: simulated instruments at wire level that share one physical world."""
