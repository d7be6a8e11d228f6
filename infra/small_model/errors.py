"""The one error of this room: what is missing or wrong, and how to get it."""

from training.errors import DetailedError


class ModelError(DetailedError):
    """The model cannot be installed; the text is for the person at the terminal."""

    reason = "INVALID_MODEL"
