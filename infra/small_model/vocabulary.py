"""Which of Gemma's 262,144 pieces the small model keeps, and why every text still encodes as before
where it can.

A set of pieces is closed when it holds every piece that BPE passes through on the way to each of
its members. A closed set encodes a text into the very same pieces as the full vocabulary whenever
those are all in it: merges are never undone, so the full derivation is still there, and nothing
better has appeared. The rest falls back to smaller pieces, at last to bytes.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from infra.small_model.tokenizer import PieceKind, Pieces, ranked_merges

# What the chat template and training need; Gemma's other 6,000 control pieces are unused.
_CONTROLS = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<start_of_turn>", "<end_of_turn>")


def choose_pieces(pieces: Pieces, wanted: Iterable[int], size: int) -> list[int]:
    """Takes pieces in the order wanted, each with its derivation, until `size` is reached; sorted
    ids.

    Controls in use, all byte pieces, printable ASCII and the runs of blanks and newlines are always
    kept.
    """
    ids = {text: index for index, text in enumerate(pieces.texts)}
    ranks = {
        (left, right): rank
        for rank, (left, right, _) in reversed(list(enumerate(ranked_merges(pieces))))
    }
    kept = {
        index
        for index, kind in enumerate(pieces.kinds)
        if kind in (PieceKind.BYTE, PieceKind.USER_DEFINED)
    }
    kept |= {ids[text] for text in (*_CONTROLS, *map(chr, range(33, 127)))}
    for index in wanted:
        if index in kept or pieces.kinds[index] != PieceKind.NORMAL:
            continue
        way = {ids[text] for text in derivation(pieces.texts[index], ranks)}
        # A piece that BPE cannot reach is never produced: not worth a row.
        if index in way and len(kept) + len(way - kept) <= size:
            kept |= way
    return sorted(kept)


def derivation(text: str, ranks: Mapping[tuple[str, str], int]) -> list[str]:
    """The pieces that BPE makes of a text, its characters first, in the order in which they appear."""
    parts = list(text)
    seen = list(parts)
    while len(parts) > 1:
        pairs = list(pairwise(parts))
        at = min(range(len(pairs)), key=lambda i: ranks.get(pairs[i], len(ranks)))
        if pairs[at] not in ranks:
            break
        parts[at : at + 2] = ["".join(pairs[at])]
        seen.append(parts[at])
    return seen


def write_kept(ids: Sequence[int], vocabulary_size: int, path: Path) -> None:
    """The choice as it is committed: one bit a piece."""
    kept = np.zeros(vocabulary_size, np.uint8)
    kept[list(ids)] = 1
    path.write_bytes(np.packbits(kept).tobytes())


def read_kept(path: Path) -> list[int]:
    """The inverse of `write_kept`: rising ids."""
    bits = np.unpackbits(np.fromfile(path, np.uint8))
    return [int(index) for index in np.flatnonzero(bits)]
