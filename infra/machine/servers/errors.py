"""Error of the servers' installation and preparation."""

from training.errors import DetailedError


class ServerError(DetailedError):
    """A server cannot be installed or prepared; the message explains the remedy to the user."""

    reason = "SERVER_ERROR"
