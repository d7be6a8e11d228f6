"""Launcher of a run as a RayJob.

Only the standard library is imported, because the launcher runs in the image of the services.
"""
