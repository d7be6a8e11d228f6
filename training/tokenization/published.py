"""Published encodings of OpenAI's models, opened from rank files in the clone or image.

tiktoken itself downloads the same files. Patterns, control tokens and hashes are those of
tiktoken_ext/openai_public.py (tiktoken 0.14), the ids therefore tiktoken's.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from training.tokenization.text_tokenizer import BytePairs, TextTokenizer, TokenizerError

FOLDER = Path(__file__).resolve().parents[2] / "models" / "encodings"
END_OF_TEXT, END_OF_PROMPT = "<|endoftext|>", "<|endofprompt|>"
R50K_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"
CL100K_PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+"
    r"|\s++$|\s*[\r\n]|\s+(?!\S)|\s"
)
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
O200K_PATTERN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+{CONTRACTION}"
    rf"|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*{CONTRACTION}"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class PublishedEncoding:
    """Definition of an encoding; `sha256` is the hash of the decompressed rank file."""

    sha256: str
    pattern: str
    control: Mapping[str, int]


PUBLISHED = {
    "o200k_base": PublishedEncoding(
        "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
        O200K_PATTERN,
        {END_OF_TEXT: 199_999, END_OF_PROMPT: 200_018},
    ),
    "cl100k_base": PublishedEncoding(
        "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
        CL100K_PATTERN,
        {
            END_OF_TEXT: 100_257,
            "<|fim_prefix|>": 100_258,
            "<|fim_middle|>": 100_259,
            "<|fim_suffix|>": 100_260,
            END_OF_PROMPT: 100_276,
        },
    ),
    "p50k_base": PublishedEncoding(
        "94b5ca7dff4d00767bc256fdd1b27e5b17361d7b8a5f968547f9f23eb70d2069",
        R50K_PATTERN,
        {END_OF_TEXT: 50_256},
    ),
    "r50k_base": PublishedEncoding(
        "306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930",
        R50K_PATTERN,
        {END_OF_TEXT: 50_256},
    ),
}


def rank_file(name: str) -> Path:
    """Return the path of the compressed rank file of an encoding."""
    return FOLDER / f"{name}.tiktoken.gz"


@cache
def open_published(name: str) -> TextTokenizer:
    """Open an encoding of PUBLISHED; 0.1 to 0.6 s and up to 60 MB, kept for the process.

    Control tokens inside a text are text.

    Raises:
        TokenizerError: the name is unknown, or the rank file is missing or was changed.
    """
    encoding = PUBLISHED.get(name)
    if encoding is None:
        raise TokenizerError(
            f"tokenizer: {name} is no published encoding; allowed are {', '.join(PUBLISHED)}",
            field="tokenizer",
            reason="UNKNOWN",
            limit=", ".join(PUBLISHED),
        )
    import tiktoken  # of the groups corpus and training; `data tokenizers --help` needs none

    ranks = read_ranks(rank_file(name), encoding.sha256)
    return BytePairs(
        tiktoken.Encoding(
            name,
            pat_str=encoding.pattern,
            mergeable_ranks=ranks,
            special_tokens=dict(encoding.control),
        )
    )


def read_ranks(path: Path, sha256: str) -> dict[bytes, int]:
    """Return the ranks by token bytes of a compressed rank file.

    Raises:
        TokenizerError: the file is missing, or its content has another hash.
    """
    try:
        content = gzip.decompress(path.read_bytes())
    except FileNotFoundError as error:
        raise TokenizerError(
            f"{path.name} is missing in {path.parent}", field=path.name, reason="MISSING"
        ) from error
    except (OSError, EOFError, zlib.error) as error:
        raise TokenizerError(
            f"{path.name}: not a complete gzip file", field=path.name, reason="MALFORMED"
        ) from error
    if (found := hashlib.sha256(content).hexdigest()) != sha256:
        raise TokenizerError(
            f"{path.name}: SHA-256 {found}, not the published {sha256}",
            field=path.name,
            reason="MISMATCH",
            limit=sha256,
        )
    lines = (line.split() for line in content.splitlines())
    return {base64.b64decode(token): int(rank) for token, rank in lines}
