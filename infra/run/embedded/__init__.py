"""Embedded run: all services in a terminal, on loopback, without root or containers."""
