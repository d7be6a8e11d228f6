"""Request keys through which handlers pass metric labels to the middleware."""

from aiohttp import web

# Set only for a loaded version, so that a caller's text never becomes a label.
VERSION = web.RequestKey("version", str)
# Status of a stream that failed after its 200 was sent.
STATUS = web.RequestKey("status", int)
