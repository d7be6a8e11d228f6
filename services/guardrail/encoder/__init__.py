"""Second stage of the guardrail: an encoder with heads, for texts on which the first is unsure."""
