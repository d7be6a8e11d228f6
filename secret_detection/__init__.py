"""Secrets in texts: private keys, keys and tokens with known prefixes, labelled values.

The guardrail replaces them in answers, training in the texts of users and models. This package
imports nothing of the project.
"""
