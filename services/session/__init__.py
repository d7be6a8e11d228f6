"""Conversations as trees of messages, the context that fits the model, and each turn's record for
training.
"""
