"""Token counts with the tokenizer of the model.

Loading the tokenizer takes seconds, and therefore happens in a thread before the service serves.
"""

import asyncio
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer

from services.chassis.errors import DetailedError

# Longer texts are counted in a thread, because a count takes more than about a millisecond
# (measured: 2.2 ms for 1,000 tokens).
INLINE_CHARACTERS = 2_000


class TokenizerMissingError(DetailedError):
    """The tokenizer file is missing or malformed; `field` is the file."""

    reason = "MISSING"


class TokenCounter:
    """Counter of the tokens of texts, without the chat template."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    async def count(self, texts: Sequence[str]) -> list[int]:
        """Return the number of tokens of each text."""
        if sum(map(len, texts)) <= INLINE_CHARACTERS:
            return self._count(texts)
        return await asyncio.to_thread(self._count, texts)

    def _count(self, texts: Sequence[str]) -> list[int]:
        encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [len(encoding.ids) for encoding in encodings]


async def load_counter(tokenizer_file: Path) -> TokenCounter:
    """Read tokenizer.json in a thread.

    Raises:
        TokenizerMissingError: the file is missing or malformed.
    """
    return TokenCounter(await asyncio.to_thread(_read, tokenizer_file))


def _read(tokenizer_file: Path) -> Tokenizer:
    if not tokenizer_file.is_file():
        raise TokenizerMissingError(
            f"{tokenizer_file} is missing: TW_SESSION_TOKENIZER_FILE must name the tokenizer.json "
            "of the model that answers; `make up` installs the small model with its tokenizer",
            field=str(tokenizer_file),
        )
    try:
        tokenizer = Tokenizer.from_file(str(tokenizer_file))
    except Exception as error:  # the library raises bare Exception
        raise TokenizerMissingError(
            f"{tokenizer_file} is not a tokenizer.json: {error}",
            field=str(tokenizer_file),
            reason="MALFORMED",
        ) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
