"""Begin and end of a turn: the tree of messages, its branches, and the context."""
