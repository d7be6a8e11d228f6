"""The public gateway: gRPC and HTTP APIs, authentication, chat, feedback."""
