"""Typos, grammar, punctuation and format of what people type; what it says stays, and every edit
can be undone.
"""
