"""The tokenizer of a model (tokenizer.json); the engine works with ids only."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer

from services.predictor.errors import ModelRefusedError

# About 4 ms of encoding. Longer texts would delay every running stream.
ENCODE_IN_THREAD_CHARACTERS = 8192


class TextCodec:
    """Encodes and decodes text for one model version."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self._tokenizer = tokenizer

    @classmethod
    def from_directory(cls, directory: Path) -> "TextCodec":
        """Read tokenizer.json.

        Raises:
            ModelRefusedError: the tokenizers library cannot read the file.
        """
        try:
            return cls(Tokenizer.from_file(str(directory / "tokenizer.json")))
        except Exception as error:  # the library raises bare Exception
            raise ModelRefusedError(
                "tokenizer.json cannot be read", field="tokenizer.json", reason="MALFORMED"
            ) from error

    async def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        """Return the ids of a text; long texts are encoded in a thread."""
        if len(text) > ENCODE_IN_THREAD_CHARACTERS:
            return await asyncio.to_thread(self._encode, text, add_special_tokens)
        return self._encode(text, add_special_tokens)

    def _encode(self, text: str, add_special_tokens: bool) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids)

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """Return the text of ids; bytes that are not UTF-8 become U+FFFD."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=skip_special_tokens))

    def token_id(self, token: str) -> int | None:
        """Return the id of a token by its exact content, special tokens included."""
        return self._tokenizer.token_to_id(token)
