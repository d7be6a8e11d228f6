"""Kubernetes cluster of a single node in namespaces of this machine, for tests and evaluation."""
