"""Reinforcement learning from verifiable rewards (RLVR): `python -m training rlvr` trains a model
on a task whose answers are checked by computation, and measures it before and after on items that
it never saw.
"""
