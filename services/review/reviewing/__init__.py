"""Reviews of stored answers by people who do not know the versions."""
