"""Choice of the pieces that the small model keeps from Gemma's 262,144.

A set of pieces is closed if the set contains every piece that BPE passes through on the way to each
member. A closed set encodes a text into the same pieces as the full vocabulary, provided that all
of these are in the set: BPE never undoes a merge, so the full derivation remains available, and no
better merge appears. Other texts fall back to smaller pieces and finally to bytes.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from infra.install.small_model.tokenizer import PieceKind, Pieces, ranked_merges

# Tokens of the chat template and of training. Gemma's other 6,000 control pieces are unused.
_CONTROLS = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<start_of_turn>", "<end_of_turn>")


def choose_pieces(pieces: Pieces, wanted: Iterable[int], size: int) -> list[int]:
    """Add wanted pieces with their derivations until `size` is reached; return sorted ids.

    Control pieces in use, all byte pieces, printable ASCII, and runs of blanks and newlines are
    always included.
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
        derived = {ids[text] for text in derivation(pieces.texts[index], ranks)}
        # Skip pieces that BPE cannot produce.
        if index in derived and len(kept) + len(derived - kept) <= size:
            kept |= derived
    return sorted(kept)


def derivation(text: str, ranks: Mapping[tuple[str, str], int]) -> list[str]:
    """Return the pieces that BPE creates for a text in order of appearance, characters first."""
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


def write_kept_pieces(ids: Sequence[int], vocabulary_size: int, path: Path) -> None:
    """Write the chosen ids as a bit per piece."""
    kept = np.zeros(vocabulary_size, np.uint8)
    kept[list(ids)] = 1
    path.write_bytes(np.packbits(kept).tobytes())


def read_kept_pieces(path: Path) -> list[int]:
    """Read the file of `write_kept_pieces`; return ascending ids."""
    bits = np.unpackbits(np.fromfile(path, np.uint8))
    return [int(index) for index in np.flatnonzero(bits)]
