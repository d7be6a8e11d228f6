"""The tour of the product: from web pages on loopback to a chat model."""
