"""Error of the model's installation."""

from training.errors import DetailedError


class ModelError(DetailedError):
    """The model cannot be installed; the message explains the remedy to the user."""

    reason = "INVALID_MODEL"
