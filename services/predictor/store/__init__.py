"""Model directories and what is kept of them on disk: manifests, digests, converted graphs."""
