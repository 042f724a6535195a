"""The way in and out: MQTT session, topics, documents, telemetry, local socket."""
