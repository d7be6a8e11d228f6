"""The real servers on loopback, without root and without containers: Kafka, Postgres, Valkey,
SeaweedFS's S3, Prometheus.
"""
