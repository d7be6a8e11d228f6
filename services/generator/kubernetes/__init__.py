"""Versions as InferenceServices of KServe."""
