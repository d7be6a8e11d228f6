"""What is committed: Parquet objects, the ledger that alone says which of them exist, and the
proofs of both.
"""
