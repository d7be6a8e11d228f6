"""How the schema of the feedback database came to be; run by `python -m services.feedback migrate`,
embedded at start.
"""
