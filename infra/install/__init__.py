"""Installation without root: Python groups, Node tools, the browser for tests, the page."""
