"""Turns of this gateway: request, events, state, and access by request id."""
