"""The one error of this room: what is missing or does not start, and what to do about it."""

from training.errors import DetailedError


class ServerError(DetailedError):
    """A server cannot be installed or made ready; the text is for the person at the terminal."""

    reason = "SERVER_ERROR"
