"""A real Kubernetes of one node on this machine, in namespaces of its own: for the tests of the
chart, and to look at.
"""
