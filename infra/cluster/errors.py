"""The one error of this room: why there is no cluster, and what to do about it."""

from training.errors import DetailedError


class ClusterError(DetailedError):
    """A cluster cannot be built, started or used; the text is for the person at the terminal."""

    reason = "CLUSTER_ERROR"
