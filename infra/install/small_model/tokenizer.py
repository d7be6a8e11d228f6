"""Construction of `tokenizer.json` from SentencePiece pieces and scores, as a byte-fallback BPE.

Construction takes seconds. The merges are all splits of a piece into two pieces, ordered by score
and then by length. This is the order of Gemma's published tokenizer.json (checked by the golden ids
of the tests). The GGUF conversion of transformers produces wrong, character-level tokens here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE

_SPACE = "\u2581"
# Higher than every learned score (all are ≤ 0), so that runs of spaces, tabs and newlines merge
# first.
_RUN_SCORE = 1.0


class PieceKind(IntEnum):
    """Piece types of SentencePiece, numbered as in GGUF."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    BYTE = 6


@dataclass(frozen=True)
class Pieces:
    """A SentencePiece vocabulary. The id of a piece is its index in the lists."""

    texts: Sequence[str]
    scores: Sequence[float]
    kinds: Sequence[int]

    def subset(self, ids: Sequence[int]) -> "Pieces":
        """Return the given pieces in the given order. New ids are indices into `ids`."""
        return Pieces(
            [self.texts[i] for i in ids],
            [self.scores[i] for i in ids],
            [self.kinds[i] for i in ids],
        )


def sentencepiece(texts: Sequence[str], scores: Sequence[float], kinds: Sequence[int]) -> Pieces:
    """Undo the changes of llama.cpp's converter to user-defined pieces.

    The converter writes plain spaces and the lowest score.
    """
    run = [kind == PieceKind.USER_DEFINED for kind in kinds]
    spaced = [
        text.replace(" ", _SPACE) if is_run else text
        for text, is_run in zip(texts, run, strict=True)
    ]
    return Pieces(
        spaced,
        [_RUN_SCORE if is_run else score for score, is_run in zip(scores, run, strict=True)],
        kinds,
    )


def build_tokenizer(pieces: Pieces) -> Tokenizer:
    """Build a tokenizer that prepends `<bos>` and never adds a space.

    Characters without a piece become byte pieces.
    """
    vocabulary = {text: index for index, text in enumerate(pieces.texts)}
    merges = [(left, right) for left, right, _ in ranked_merges(pieces)]
    unknown = "<unk>"
    tokenizer = Tokenizer(
        BPE(vocabulary, merges, unk_token=unknown, fuse_unk=True, byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Replace(" ", _SPACE)
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer.add_tokens(
        [
            AddedToken(pieces.texts[index], special=kind == PieceKind.CONTROL, normalized=False)
            for index, kind in enumerate(pieces.kinds)
            if kind in (PieceKind.CONTROL, PieceKind.USER_DEFINED)
        ]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A",
        pair="<bos> $A <bos>:1 $B:1",
        special_tokens=[("<bos>", vocabulary["<bos>"])],
    )
    return tokenizer


def ranked_merges(pieces: Pieces) -> list[tuple[str, str, float]]:
    """Return all splits of pieces into two known pieces, in the order of application by BPE."""
    ids = {text: index for index, text in enumerate(pieces.texts)}
    merges: list[tuple[str, str, float]] = []
    for text, score in zip(pieces.texts, pieces.scores, strict=True):
        splits = [(text[:cut], text[cut:]) for cut in range(1, len(text))]
        known = [(left, right) for left, right in splits if left in ids and right in ids]
        merges.extend(
            (left, right, score)
            for left, right in sorted(known, key=lambda pair: (ids[pair[0]], ids[pair[1]]))
        )
    merges.sort(key=lambda merge: (merge[2], len(merge[0]), len(merge[1])), reverse=True)
    return merges
