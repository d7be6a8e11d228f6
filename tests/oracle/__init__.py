"""Our losses against TRL's on fixed batches: `make oracle`. TRL lives in environments of its own
and is imported by nothing else.
"""
