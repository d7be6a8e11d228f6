"""Statistics of people's judgement: ratings, fragility and agreement, without input or output.

The review service and the training loop use the same functions. This package imports numpy and
nothing of the project. Methods, sources and figures: docs/decisions/human-evaluation.md.
"""
