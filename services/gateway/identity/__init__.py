"""API keys, OpenID Connect tokens and the credential of a caller."""
