"""Starts a turn of the loop as a RayJob and waits for its end. Standard library alone: it runs in
the image of the services.
"""
