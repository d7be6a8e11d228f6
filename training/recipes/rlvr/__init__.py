"""Reinforcement learning from verifiable rewards (RLVR): `thumbwheel train rlvr`.

The command trains a model on a task with computed verdicts, and measures held-out items before and
after.
"""
