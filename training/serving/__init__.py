"""Model servers that a training process asks or starts."""
