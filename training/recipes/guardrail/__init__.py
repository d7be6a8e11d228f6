"""The recipe of the guardrail's classifier: where its texts come from, how it is fitted, what it is
worth.
"""
