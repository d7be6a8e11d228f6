"""The HTTP half of the door: OpenAI's API, the page's API, the page itself."""
