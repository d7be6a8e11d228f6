"""The toy world in which the nano model is trained, and the training of its base."""
