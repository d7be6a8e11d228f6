"""Error of a release."""

from training.errors import DetailedError


class ReleaseError(DetailedError):
    """A release cannot be made from these inputs; the message explains the remedy."""

    reason = "RELEASE_ERROR"
