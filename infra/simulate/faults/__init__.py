"""Proxies that inject faults between a client and a real server, for tests.

Each fault is counted when injected.
"""
