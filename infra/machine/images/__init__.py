"""Container images of Thumbwheel, built without Docker.

An image consists of plain tar layers and JSON. Equal input yields equal bytes.
"""
