"""State that gateways share through Valkey: turns, quotas, cached answers. May be unavailable."""
