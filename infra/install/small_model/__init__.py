"""Installation of the small model: Gemma-3-270M, a smaller vocabulary and a merged adapter."""
