"""The stores of an evaluation in a cluster: single copies of Postgres, Kafka, S3 and Valkey out of
our own image, for trying things out.
"""
