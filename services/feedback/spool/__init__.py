"""Acceptance of events and the write-ahead log on the local disk.

Acceptance decides, claims and seals; a group of events is then written and synced together.
"""
