"""Evaluation of candidates: the offline gate, and the canary on users."""
