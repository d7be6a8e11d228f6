"""Feedback as training data: events, sealed texts, snapshots and judgements."""
