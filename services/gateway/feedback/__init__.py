"""Feedback, consent and erasure of the caller."""
