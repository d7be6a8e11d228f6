"""A small authority of our own, for tests and for services on one machine. In a cluster
cert-manager or SPIRE does this.
"""
