"""Files that survive power loss, shared by services and training."""
