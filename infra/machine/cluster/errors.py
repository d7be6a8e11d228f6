"""Error of the cluster's installation and lifecycle."""

from training.errors import DetailedError


class ClusterError(DetailedError):
    """A cluster cannot be built, started or used; the message explains the remedy to the user."""

    reason = "CLUSTER_ERROR"
