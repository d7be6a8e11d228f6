"""Migration steps.

Each step describes the tables of its time and shares no code with tables.py.
"""
