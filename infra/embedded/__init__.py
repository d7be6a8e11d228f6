"""The embedded run: all services as processes of one terminal, on loopback, without root or
containers.
"""
