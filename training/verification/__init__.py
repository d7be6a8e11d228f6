"""Verifiable tasks: prompts whose responses are verified by computation, for GRPO and PPO.

Two isolation layers exist: free text is parsed only by disposable worker processes (workers.py),
and code runs only in the sandbox (sandbox/).
"""
