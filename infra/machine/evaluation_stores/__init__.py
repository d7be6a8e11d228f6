"""Stores for an evaluation in a cluster: single replicas of Postgres, Kafka, S3 and Valkey.

All of them run from the Thumbwheel image. They are not meant for production.
"""
