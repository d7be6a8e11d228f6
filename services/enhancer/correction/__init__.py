"""Corrections of spelling, grammar, punctuation and spacing."""
