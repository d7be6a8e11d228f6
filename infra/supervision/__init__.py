"""Keeps the processes of one terminal running, and ends them in order: for the embedded run and for
the real servers.
"""
