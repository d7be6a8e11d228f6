"""Training of the guardrail's encoder: low-rank adapters and heads over a pinned base."""
