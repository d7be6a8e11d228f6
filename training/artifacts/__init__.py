"""Artifacts of training runs: manifests, the registry of versions, and their ancestry."""
