"""Division of a snapshot into training sets per stage and evaluation sets.

Evaluation data are never trained on. Two divisions cross each other. Prompts: a hash of the
conversation's opening holds out a fixed share, in every later snapshot too, so that no turn or
branch of a held-out conversation is trained on. Users: a share of the users and reviewers are
judges. Their feedback trains only the second reward model, which compares candidate and stable
version.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from durable_files.files import make_directory
from training.data.chat import Message
from training.data.feedback.division import (
    divide_prompts,
    judge_key,
    select_judges,
    unit_interval,
)
from training.data.feedback.judgements import GivenFeedback, Judgement
from training.data.feedback.pairs import (
    CORRECTION_MARGIN,
    LabelNoise,
    Pair,
    Question,
    amounts_of_feedback,
    estimate_noise,
    group_by_prompt,
    is_unchanged,
    make_pairs,
    noise_ceiling,
    pair_line,
)
from training.data.feedback.sources import Source, SourceWeights
from training.data.feedback.texts import prompt_key
from training.data.feedback.user_shares import cap_users, share_prompt
from training.data.served import Served
from training.runtime.ranges import FractionAboveZero, OpenFraction, check_fields

ANCHORS = "anchors.jsonl"  # chosen answers of the anchors: the only set without feedback
PAIR_ADVICE = (
    "A pair is a liked and a disliked answer to the same question, or an answer and its "
    "correction, or two ranked answers: ask a question twice and rate one answer up, the other "
    "down."
)


@dataclass(frozen=True)
class SetsConfig:
    """Fractions of prompts and judgements, and the minimum amounts of data for a run (min_*).

    `max_pairs_per_prompt` bounds the pairs and the SFT examples of one context, which users share.
    `max_user_share` bounds the share of SFT examples, of thumbs, and of pairs in each set, that
    depend on one user or reviewer alone; with few users, twice the equal share bounds it.
    `source_weights` are factors on the weights of pairs and SFT examples by origin. With
    `redact_personal_data`, mail addresses, telephone numbers and other personal data become
    placeholders before the division; `language` is the ISO 639-1 code of the users' language, which
    selects the national numbers.
    """

    held_out_fraction: OpenFraction = 0.2
    judge_fraction: OpenFraction = 0.4
    max_pairs_per_prompt: int = 16
    correction_weight: float = 2.0
    source_weights: SourceWeights = field(default_factory=SourceWeights)
    max_user_share: FractionAboveZero = 0.05
    # JSON lines of fixed pairs for every run, for example requests to refuse.
    anchors: Path | None = None
    min_thumbs: int = 200
    min_pairs: int = 60
    min_held_out_pairs: int = 20
    seed: int = 0
    redact_personal_data: bool = True
    language: str = "en"

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class TrainingSets:
    """All sets of one snapshot. `judges_are` is "users" or, with few users, "answers"."""

    sft: list[dict[str, Any]]
    thumbs: list[dict[str, Any]]
    pairs: list[Pair]
    judge_pairs: list[Pair]
    held_out_pairs: list[Pair]
    prompts: list[tuple[Message, ...]]
    held_out_prompts: list[tuple[Message, ...]]
    noise: LabelNoise
    judges_are: str
    dropped: Mapping[str, int]
    anchors: Sequence[Pair] = ()  # the recipe's own pairs, which are also among the pairs
    redacted: Mapping[str, int] = field(default_factory=dict)  # placeholders by kind of data

    @property
    def user_pairs(self) -> int:
        """Number of training pairs from feedback, without the recipe's own."""
        return len(self.pairs) - len(self.anchors)

    @property
    def held_out_ceiling(self) -> float | None:
        """Highest expected accuracy on the held-out pairs; None for unknown noise."""
        return noise_ceiling(self.held_out_pairs)

    def counts(self) -> dict[str, Any]:
        """Return the figures for the report and the manifest."""
        return {
            "sft_examples": len(self.sft),
            "thumb_examples": len(self.thumbs),
            "thumb_examples_sampled": sum("served" in thumb for thumb in self.thumbs),
            "pairs": len(self.pairs),
            "judge_pairs": len(self.judge_pairs),
            "held_out_pairs": len(self.held_out_pairs),
            "prompts": len(self.prompts),
            "held_out_prompts": len(self.held_out_prompts),
            "label_noise": asdict(self.noise),
            "ceiling": noise_ceiling(self.pairs),
            "judge_ceiling": noise_ceiling(self.judge_pairs),
            "held_out_ceiling": self.held_out_ceiling,
            "judges_are": self.judges_are,
            "dropped": dict(self.dropped),
            "personal_data_replaced": dict(self.redacted),
            "by_source": {
                "sft_examples": _counted(line["source"] for line in self.sft),
                **{
                    name: _counted(pair.source.value for pair in getattr(self, name))
                    for name in ("pairs", "judge_pairs", "held_out_pairs")
                },
            },
        }

    def missing(self, config: SetsConfig, thumbs: int, rankings: int = 0) -> list[str]:
        """Describe the amounts below their minimum; empty if there is enough data for a run.

        The text is for users: the recipe's own pairs are counted neither as given nor as needed.
        """
        given = "thumbs and rankings" if rankings else "thumbs"
        wanted = [
            (given, thumbs + rankings, config.min_thumbs),
            ("pairs for training", self.user_pairs, config.min_pairs - len(self.anchors)),
            ("pairs to compare versions", len(self.judge_pairs), config.min_pairs // 2),
            ("pairs kept for evaluation", len(self.held_out_pairs), config.min_held_out_pairs),
        ]
        return [f"{have} {name}, {need} needed" for name, have, need in wanted if have < need]


def make_sets(feedback: Sequence[GivenFeedback], config: SetsConfig) -> TrainingSets:
    """Divide the feedback of one snapshot into all sets of a run; deterministic."""
    judges, judges_are = select_judges(feedback, config.judge_fraction, config.max_user_share)
    anchors = [] if config.anchors is None else read_anchors(config.anchors)
    for_training, held_out = divide_prompts(
        feedback, [anchor.context for anchor in anchors], config.held_out_fraction
    )
    noise = estimate_noise(group_by_prompt(feedback))
    training_questions = group_by_prompt(
        given for given in for_training if judge_key(given, judges_are) not in judges
    )
    judge_questions = group_by_prompt(
        given for given in for_training if judge_key(given, judges_are) in judges
    )
    dropped: Counter[str] = Counter()
    pairs_by_set = []
    for questions in (training_questions, judge_questions, group_by_prompt(held_out)):
        pairs, left_out = make_pairs(
            questions, noise, config.max_pairs_per_prompt, config.seed, config.source_weights
        )
        pairs, over_share = cap_users(
            pairs, [pair.users for pair in pairs], config.max_user_share, config.seed
        )
        pairs_by_set.append(pairs)
        dropped.update(left_out, pairs_over_share_of_user=over_share)
    examples, authors, over_cap = _sft_lines(training_questions, config)
    examples, over_share = cap_users(examples, authors, config.max_user_share, config.seed)
    thumbs, raters = _thumb_lines(training_questions)
    thumbs, thumbs_over_share = cap_users(thumbs, raters, config.max_user_share, config.seed)
    dropped.update(
        sft_over_cap_of_prompt=over_cap,
        sft_over_share_of_user=over_share,
        thumbs_over_share_of_user=thumbs_over_share,
        corrections_unchanged=sum(
            isinstance(given, Judgement) and is_unchanged(given) for given in feedback
        ),
        answers_without_majority=sum(
            answer.up == answer.down
            for question in training_questions
            for answer in question.answers
        ),
    )
    pairs = [*pairs_by_set[0], *anchors]
    random.Random(config.seed).shuffle(pairs)
    return TrainingSets(
        sft=[*examples, *map(_anchor_line, anchors)],
        thumbs=[*thumbs, *_anchor_thumbs(anchors)],
        pairs=pairs,
        judge_pairs=pairs_by_set[1],
        held_out_pairs=pairs_by_set[2],
        prompts=[
            *(question.context for question in group_by_prompt(for_training)),
            *(anchor.context for anchor in anchors),
        ],
        held_out_prompts=[question.context for question in group_by_prompt(held_out)],
        noise=noise,
        judges_are=judges_are,
        dropped=dict(dropped),
        anchors=anchors,
    )


def write_sets(sets: TrainingSets, directory: Path) -> None:
    """Write one JSON-lines file per set, under the names used by recipes."""
    make_directory(directory)
    _write(directory / "sft.jsonl", sets.sft)
    _write(directory / ANCHORS, map(_anchor_line, sets.anchors))
    _write(directory / "thumbs.jsonl", sets.thumbs)
    _write(directory / "pairs.jsonl", map(pair_line, sets.pairs))
    _write(directory / "judge_pairs.jsonl", map(pair_line, sets.judge_pairs))
    _write(directory / "held_out_pairs.jsonl", map(pair_line, sets.held_out_pairs))
    _write(directory / "prompts.jsonl", map(_prompt_line, sets.prompts))
    _write(directory / "held_out_prompts.jsonl", map(_prompt_line, sets.held_out_prompts))


def _anchor_line(anchor: Pair) -> dict[str, Any]:
    line = {**_prompt_line(anchor.context), "response": anchor.chosen, "weight": 1.0}
    return {**line, "source": anchor.source.value}


def _anchor_thumbs(anchors: Iterable[Pair]) -> list[dict[str, Any]]:
    """Return a thumb up and a thumb down for each pair of the recipe."""
    return [
        _thumb_line(anchor.prompt_id, anchor.context, text, up) | {"source": anchor.source.value}
        for anchor in anchors
        for text, up in ((anchor.chosen, True), (anchor.rejected, False))
    ]


def _counted(sources: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(sources).items()))


def read_anchors(path: Path) -> list[Pair]:
    """Read {"messages", "chosen", "rejected"} lines as pairs. Judge sets never contain anchors."""
    with path.open() as opened:
        rows = [json.loads(line) for line in opened]
    contexts = [tuple(Message(**message) for message in row["messages"]) for row in rows]
    return [
        Pair(prompt_key(context), context, row["chosen"], row["rejected"], CORRECTION_MARGIN, None)
        for context, row in zip(contexts, rows, strict=True)
    ]


def _sft_lines(
    questions: Sequence[Question], config: SetsConfig
) -> tuple[list[dict[str, Any]], list[tuple[frozenset[str], ...]], int]:
    """Return liked answers and corrections as examples, their users, and the number of drops.

    The weight of a liked answer is its majority. A correction of several answers to a context is
    one example. The factor of the source applies to both. At most max_pairs_per_prompt examples of
    a context are kept, shared by the users, and chosen by a hash among those of a user.
    """
    given = amounts_of_feedback(questions)
    lines: list[dict[str, Any]] = []
    users: list[tuple[frozenset[str], ...]] = []
    over_cap = 0
    for question in questions:
        found = [
            (
                answer.text,
                (answer.up - answer.down) / (answer.up + answer.down),
                answer.users,
                Source.THUMBS,
            )
            for answer in question.answers
            if answer.up > answer.down
        ]
        authors: dict[str, frozenset[str]] = {}
        sources: dict[str, Source] = {}
        # A text of users and reviewers counts as a correction.
        for correction in sorted(question.corrections, key=lambda c: c.source, reverse=True):
            known = authors.get(correction.text, frozenset())
            authors[correction.text] = known | correction.users
            sources[correction.text] = correction.source
        found += [
            (text, config.correction_weight, authors[text], sources[text])
            for text in sorted(authors)
        ]
        found = [example for example in found if config.source_weights.of(example[3])]
        if len(found) > config.max_pairs_per_prompt:
            over_cap += len(found) - config.max_pairs_per_prompt
            found.sort(key=lambda example: unit_interval(f"sft:{config.seed}", example[0]))
            by_users = [(example[2],) for example in found]
            kept = share_prompt(by_users, config.max_pairs_per_prompt, given)
            found = [found[place] for place in kept]
        messages = _prompt_line(question.context)["messages"]
        for text, weight, by, source in found:
            weight *= config.source_weights.of(source)
            line = {"messages": messages, "response": text, "weight": weight}
            lines.append({**line, "source": source.value})
            users.append((by,))
    return lines, users, over_cap


def _thumb_lines(
    questions: Iterable[Question],
) -> tuple[list[dict[str, Any]], list[tuple[frozenset[str]]]]:
    """Return one thumb per answer, given by the majority, and its users; ties are skipped."""
    answers = [
        (question, answer)
        for question in questions
        for answer in question.answers
        if answer.up != answer.down
    ]
    lines = [
        _thumb_line(
            question.prompt_id,
            question.context,
            answer.text,
            answer.up > answer.down,
            answer.served,
        )
        for question, answer in answers
    ]
    return lines, [(answer.users,) for _, answer in answers]


def _thumb_line(
    prompt_id: str,
    context: Sequence[Message],
    response: str,
    up: bool,
    served: Served | None = None,
) -> dict[str, Any]:
    """Return a line of the thumbs file, with the sample if known."""
    line = {
        **_prompt_line(context),
        "response": response,
        "thumb": "up" if up else "down",
        "prompt_id": prompt_id,
        "source": Source.THUMBS.value,
    }
    return line if served is None else {**line, "served": served.fields()}


def _prompt_line(context: Sequence[Message]) -> dict[str, Any]:
    return {"messages": [{"role": message.role, "content": message.content} for message in context]}


def _write(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    with path.open("w") as opened:
        for line in lines:
            opened.write(json.dumps(line, ensure_ascii=False) + "\n")
