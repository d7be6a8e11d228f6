"""The one error of this room: why there is no cluster, and what to do about it."""


class ClusterError(Exception):
    """A cluster cannot be built, started or used; the text is for the person at the terminal."""
