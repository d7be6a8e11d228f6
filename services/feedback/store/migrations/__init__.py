"""Schema migrations of the feedback database.

Run by `python -m services.feedback migrate`, and at the start of an embedded install.
"""
