"""The HTTP edge: OpenAI's API, KServe's repository extension, health and metrics."""
