"""Enhancer service: corrects typos, grammar, punctuation and spacing of typed texts.

The meaning of a text does not change, and every edit can be undone.
"""
