"""Private certificate authority for tests and for services on a single machine.

In a cluster, cert-manager or SPIRE issues the certificates.
"""
