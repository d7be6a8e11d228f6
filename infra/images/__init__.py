"""Images of Thumbwheel without Docker: plain tar layers and JSON, the same bytes for the same
input.
"""
