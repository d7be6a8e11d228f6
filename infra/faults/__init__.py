"""Proxies that tests put between a client and a real server, to hurt the traffic: each fault is
counted when it strikes.
"""
