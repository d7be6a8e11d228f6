"""Guardrail service: verdicts on inputs and outputs.

The verdicts combine rules, a small classifier, and detectors of secrets and personal data. Answers
are released up to the first undecided word.
"""
