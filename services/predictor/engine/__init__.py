"""Token ids in, token ids out: one paged pipeline per version, stepped by its own thread."""
