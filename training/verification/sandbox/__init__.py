"""Where code that a model wrote runs: bubblewrap, no network, no files of ours, bounded in
everything. Never without it.

Nothing that comes out is trusted, and nothing that must stay secret goes in: expected values stay
outside (verification/code.py).
"""
