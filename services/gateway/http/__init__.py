"""HTTP server of the gateway: OpenAI's API, the page's API, and the page itself."""
