"""Session service: conversations, the context of each turn, and turn records for training."""
