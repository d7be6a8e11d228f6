"""Verifiable tasks: prompts whose responses are judged right or wrong by computation, for GRPO and
PPO.

Two walls: free text is read only by worker processes that are killed (workers.py), code runs only
in the sandbox (sandbox/).
"""
