"""Names and defaults of `rlvr` that its arguments and its recipe share.

The arguments are parsed before torch is imported, so they cannot import the recipe. The names of
sizes and algorithms are the keys of the tables in recipe.py.
"""

from __future__ import annotations

SIZES, ALGORITHMS = ("small", "tiny"), ("grpo", "ppo")
PROMPT_TOKENS, RESPONSE_TOKENS = 192, 64
