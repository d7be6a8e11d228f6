"""Credentials of S3 clients that are not configured as a pair of keys.

Feedback and training share this package, which imports nothing of the project.
"""
