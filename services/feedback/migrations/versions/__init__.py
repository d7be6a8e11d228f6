"""One file a step; they describe tables as they were then, so they share nothing with tables.py."""
