"""Text that grows with its tokens, never by half a character.

A token may hold part of a character, and what a token adds depends on those before it
(SentencePiece's leading space). So each step decodes a short window twice, with and without the new
tokens, and gives out the difference once it is whole: the scheme of text-generation-inference and
vLLM.
"""

from services.predictor.text.codec import TextCodec

REPLACEMENT = "�"


class IncrementalDetokeniser:
    """One growing text."""

    def __init__(self, codec: TextCodec) -> None:
        self._codec = codec
        self._window: list[int] = []  # ids from the last token or two that were given out
        self._given = 0  # how many of the window's ids were given out already

    def add(self, token: int) -> str:
        """What the token adds: empty while a character is incomplete."""
        self._window.append(token)
        before = self._codec.decode(self._window[: self._given])
        after = self._codec.decode(self._window)
        if len(after) <= len(before) or after.endswith(REPLACEMENT):
            return ""
        self._window = self._window[self._given :]
        self._given = len(self._window)
        return after[len(before) :]
