"""Sink of one partition: read the log, write an object, commit to the ledger, trim."""
