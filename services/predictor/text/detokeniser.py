"""Incremental decoding of tokens to text, in complete characters.

A token may hold part of a character, and its text depends on the previous tokens (SentencePiece's
leading space). Each step therefore decodes a short window with and without the new tokens, and
returns the difference once complete. text-generation-inference and vLLM use the same scheme.
"""

from services.predictor.text.codec import TextCodec

REPLACEMENT = "�"


class IncrementalDetokeniser:
    """Decoder of one growing text."""

    def __init__(self, codec: TextCodec) -> None:
        self._codec = codec
        self._window: list[int] = []  # recent ids, from the last returned text on
        self._emitted = 0  # number of ids in the window with returned text

    def add(self, token: int) -> str:
        """Return the new text of a token; empty while a character is incomplete."""
        self._window.append(token)
        before = self._codec.decode(self._window[: self._emitted])
        after = self._codec.decode(self._window)
        if len(after) <= len(before) or after.endswith(REPLACEMENT):
            return ""
        self._window = self._window[self._emitted :]
        self._emitted = len(self._window)
        return after[len(before) :]
