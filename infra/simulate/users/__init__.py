"""Simulated users that chat and rate through the public gRPC API.

Their preferences are defined only in this package.
"""
