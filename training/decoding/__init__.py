"""From a decoder to text: which token comes next, when a text ends, and how it is shown while it
grows.
"""
