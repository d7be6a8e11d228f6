"""Real servers on loopback without root or containers.

Kafka, Postgres, Valkey, SeaweedFS (S3) and Prometheus.
"""
