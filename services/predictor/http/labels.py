"""What handlers tell the middleware about a request, for its metrics."""

from aiohttp import web

VERSION = web.RequestKey(
    "version", str
)  # set only once it is known to exist: a caller's text never becomes a label
STATUS = web.RequestKey("status", int)  # of a stream that failed after its 200 was sent
