"""Parts that exist because a machine has no Docker; README.md names the replacements."""
