"""Probes of a model's behaviour: safety, sycophancy, knowledge and style.

The items are files in texts/. Answers are scored by rules on their text, without another model.
"""
