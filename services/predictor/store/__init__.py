"""Model directories and derived files on disk: manifests, digests, converted graphs."""
