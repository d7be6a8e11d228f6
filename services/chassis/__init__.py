"""Shared runtime of the services.

The list of modules is closed: a module must be free of the nouns of any service, and at least three
services must need the module.
"""
