"""Simulated people: they chat and rate over the public gRPC API alone, with a taste that is written
down only here.
"""
