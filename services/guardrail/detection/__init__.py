"""Detection of harmful requests, injections, secrets and personal data in a text."""
