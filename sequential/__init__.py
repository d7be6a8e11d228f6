"""Anytime-valid comparison of two versions in use, without input or output.

The canary of the training loop and the watch of the generator after a promotion decide by the same
functions. This package imports numpy and nothing of the project.
"""
