"""Error of this package; services and training translate it into theirs."""


class ChatFormatError(ValueError):
    """A model directory, or a conversation, whose format is unusable. The text quotes no message.

    Args:
        text: message for a person, with the field and the allowed values.
        field: the file or key at fault.
        reason: stable UPPER_SNAKE_CASE code.
        limit: allowed values; "" if there is no limit.
    """

    def __init__(self, text: str, *, field: str, reason: str, limit: str = "") -> None:
        super().__init__(text)
        self.text = text
        self.field = field
        self.reason = reason
        self.limit = limit
