"""What may come in and what may go out: rules, a small classifier, secrets and personal data, the
hold-back.
"""
