"""Commands on reviews against a running system."""
