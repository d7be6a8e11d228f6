"""The one error of this room: what is missing or wrong, and how to get it."""


class ModelError(Exception):
    """The model cannot be installed; the text is for the person at the terminal."""
