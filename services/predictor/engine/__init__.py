"""Token ids in, token ids out: one paged pipeline a version, stepped by a thread of its own."""
