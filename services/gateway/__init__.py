"""The only public door: gRPC and HTTP, keys, the chat path, thumbs."""
