"""How the gateway's database came to be what tables.py says: one file a change, applied in order,
never edited.
"""
