"""Recipe of the guardrail classifier: sources of texts, fitting and evaluation."""
