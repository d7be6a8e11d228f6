"""Tokenizers of our own: byte pairs for models, words and characters to compare them with, and a
page that shows how they split.
"""
