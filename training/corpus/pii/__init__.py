"""Detection of personal data in texts, and its replacement by typed placeholders."""
