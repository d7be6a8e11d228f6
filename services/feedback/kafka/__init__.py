"""Kafka between spool and sink for several replicas: relay, topics, and partition logs."""
