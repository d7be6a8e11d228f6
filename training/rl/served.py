"""What served answers tell a trainer: how far its starting model is from the version that sampled
them, on the very ids that were sampled.

The same weights must give nearly the same log-probs; where they do not, something else differs, and
training from it is refused.
Shapes: B rows, T tokens, N tokens of all rows.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from training.data.chat import Chat, Message
from training.data.served import Served
from training.data.tensors import TokenisedExample, response_batch
from training.errors import DetailedError
from training.model.backbone import Backbone
from training.ranges import Limit, WeightCap, check_ranges
from training.rl.correction import mismatch, truncated_importance
from training.rl.reference import response_token_log_probs

# Why a sample cannot be of its answer.
OTHER_PROMPT = "its prompt had another number of tokens"
WITHOUT_END = "it does not end with a token that ends a response"
OTHER_TEXT = "its tokens are not its text"
UNFIT_SHARE = (
    0.05  # of a version's answers: more is no odd character, but another tokenizer or template
)


class OffPolicyError(DetailedError, ValueError):
    """Served answers that may not be trained on; the text names the field and what was found."""

    reason = "OFF_POLICY"


@dataclass(frozen=True)
class OffPolicyConfig:
    """What is asked of answers that a version sampled while it served people.

    Attributes:
        versions: whose answers may be learned from beside the starting model's own, commas between;
            none: everybody's, also unsampled ones
        mismatch_limit_nats: mean difference of a token's log-prob between the starting model here
            and as it was served, above 0
        importance_cap: most that an answer counts, min(p_start / p_served, cap), at least 1; none:
            each counts 1, and the mismatch is told
    """

    versions: tuple[str, ...] | None = None
    # 0.002 measured for nano on OpenVINO, 0.086 for the small model in 8 bits (the decision page)
    mismatch_limit_nats: Limit = 0.2
    importance_cap: WeightCap | None = None

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True)
class Answer:
    """An answer to learn from; what was sampled is its response, unless nobody knows it (None) or
    it is `unfit`.
    """

    example: TokenisedExample
    served: Served | None = None
    unfit: str = ""


@dataclass(frozen=True)
class Measured:
    """Of one answer: log-probs of the starting model and of the version that served it, [N] each,
    on the processor.
    """

    version: str
    trainer_N: Tensor
    served_N: Tensor

    def importance(self, cap: float) -> float:
        """min(p_start / p_served, cap) of the whole response: what is learned from it is one number
        a response (kto in losses.py).
        """
        sums = (self.trainer_N.sum().reshape(1, 1), self.served_N.sum().reshape(1, 1))
        return float(truncated_importance(*sums, cap))


def read_answer(
    served: Served | None, messages: Sequence[Message], response: str, chat: Chat
) -> Answer:
    """As ids, to the end token: those that were sampled, if they are this text by this tokenizer,
    else the text's.
    """
    prompt = tuple(chat.prompt_ids(messages))
    reason = _unfit(served, prompt, response, chat) if served else ""
    sampled = served.token_ids if served and not reason else None
    return Answer(
        TokenisedExample(prompt, sampled or tuple(chat.response_ids(response))), served, reason
    )


def compare_log_probs(
    load: Callable[[], Backbone],
    starting: str,
    answers: Sequence[Answer],
    config: OffPolicyConfig,
    batch_rows: int,
    autocast: Callable[[], AbstractContextManager[Any]],
) -> tuple[list[Answer], dict[str, Any]]:
    """Hold what was sampled against the starting model; the model is loaded only where there is
    something to measure.

    Returns:
        the answers, each with its importance as its weight where a cap is given; and figures for
        the report: answers_unsampled, answers_unfit, and off_policy by version (see `figures_of`).

    Raises:
        OffPolicyError: a version that is not allowed, or the starting model's own answers are not
            what it would give here.
    """
    versions = [answer.served.version if answer.served else None for answer in answers]
    check_versions(versions, starting, config)
    check_fit(
        [
            answer.unfit
            for answer, version in zip(answers, versions, strict=True)
            if version == starting
        ],
        starting,
    )
    places = [place for place, answer in enumerate(answers) if answer.served and not answer.unfit]
    measured = (
        measure(load(), [answers[place] for place in places], batch_rows, autocast)
        if places
        else []
    )
    by_version = figures_of(measured, config)
    check_mismatch(by_version, starting, config)
    weighed = list(answers)
    if config.importance_cap is not None:
        for place, one in zip(places, measured, strict=True):
            example = replace(answers[place].example, weight=one.importance(config.importance_cap))
            weighed[place] = replace(answers[place], example=example)
    unsampled, unfit = versions.count(None), sum(bool(answer.unfit) for answer in answers)
    return weighed, {
        "answers_unsampled": unsampled,
        "answers_unfit": unfit,
        "off_policy": by_version,
    }


def _unfit(served: Served, prompt: Sequence[int], response: str, chat: Chat) -> str:
    """Why the sample cannot be of this answer with this tokenizer and chat template, or "". Spaces
    of the text do not count.
    """
    if served.prompt_tokens and served.prompt_tokens != len(prompt):
        return OTHER_PROMPT
    if served.token_ids[-1] not in chat.stop_ids:
        return WITHOUT_END
    if _plain(chat.decode(served.token_ids)) != _plain(response):
        return OTHER_TEXT
    return ""


def check_versions(versions: Sequence[str | None], starting: str, config: OffPolicyConfig) -> None:
    """Refuse answers of versions that may not be learned from; None stands for an answer without a
    sample.

    Raises:
        OffPolicyError: names the versions and how many answers each gave.
    """
    if config.versions is None:
        return
    foreign = Counter(
        version or "no sample"
        for version in versions
        if version not in (starting, *config.versions)
    )
    if foreign:
        found = ", ".join(f"{version} ({count})" for version, count in sorted(foreign.items()))
        allowed = ", ".join((starting, *config.versions))
        raise OffPolicyError(
            f"off_policy.versions: answers of {found}; allowed are {allowed}",
            field="off_policy.versions",
            reason="UNKNOWN",
            limit=allowed,
        )


def check_fit(reasons: Sequence[str], starting: str) -> None:
    """Refuse where too many answers of the starting model itself are not what it would have been
    given or have said.

    Args:
        reasons: one an answer of the starting model, "" where it fits.

    Raises:
        OffPolicyError: with the most frequent reason.
    """
    wrong = Counter(reason for reason in reasons if reason)
    if wrong.total() > UNFIT_SHARE * len(reasons):
        (reason, _), *_ = wrong.most_common(1)
        raise OffPolicyError(
            f"{wrong.total()} of {len(reasons)} answers that {starting} gave do not fit the same version here ({reason}): "
            "its tokenizer or chat template is another one than when it served",
            field="served",
            reason="MISMATCH",
            limit=f"at most {UNFIT_SHARE:.0%}",
        )


@torch.no_grad()
def measure(
    backbone: Backbone,
    rows: Sequence[Answer],
    batch_rows: int,
    autocast: Callable[[], AbstractContextManager[Any]],
) -> list[Measured]:
    """Teacher-force the starting model over what was sampled, in the order of `rows`. Every rank
    does all of it, so that all know it.
    """
    order = sorted(range(len(rows)), key=lambda place: rows[place].example.tokens)
    found: dict[int, Measured] = {}
    for places in _chunks(order, batch_rows):
        batch = response_batch([rows[place].example for place in places])
        with autocast():
            log_probs_BT = response_token_log_probs(backbone, batch).float().cpu()
        for place, trainer_T, mask_T in zip(
            places, log_probs_BT, batch.response_mask_BT[:, 1:], strict=True
        ):
            if served := rows[place].served:
                served_N = torch.tensor(served.log_probs, device="cpu")
                found[place] = Measured(served.version, trainer_T[mask_T], served_N)
    return [found[place] for place in range(len(rows))]


def figures_of(
    measured: Sequence[Measured], config: OffPolicyConfig
) -> dict[str, dict[str, float]]:
    """By version: answers, tokens, mismatch (mean |difference| in nats) and kl (k3) of a token;
    with a cap also the mean importance, and the share of answers at the cap.
    """
    by_version: dict[str, list[Measured]] = defaultdict(list)
    for one in measured:
        by_version[one.version].append(one)
    return {
        version: _figures(answers, config.importance_cap)
        for version, answers in sorted(by_version.items())
    }


def check_mismatch(
    figures: Mapping[str, Mapping[str, float]], starting: str, config: OffPolicyConfig
) -> None:
    """Refuse the starting model's own answers where it gives them other log-probs here than when it
    served.

    Raises:
        OffPolicyError: with what was measured, and what it may be.
    """
    own = figures.get(starting)
    if own and not own["mismatch"] <= config.mismatch_limit_nats:
        raise OffPolicyError(
            f"off_policy.mismatch_limit_nats: {starting} gives its own answers log-probs that are {own['mismatch']:.3g} nats a token from "
            f"those of serving, at most {config.mismatch_limit_nats:g}: other weights under this name, another tokenizer or chat template, "
            "a coarser quantisation, or log-probs that are not the raw model's",
            field="off_policy.mismatch_limit_nats",
            reason="MISMATCH",
            limit=f"at most {config.mismatch_limit_nats:g}",
        )


def _figures(answers: Sequence[Measured], cap: float | None) -> dict[str, float]:
    trainer_N, served_N = (
        torch.cat([getattr(one, name) for one in answers]) for name in ("trainer_N", "served_N")
    )
    apart = mismatch(trainer_N, served_N, torch.ones_like(served_N))
    figures = {
        "answers": len(answers),
        "tokens": len(served_N),
        "mismatch": float(apart["sampler_mismatch"].mean()),
        "kl": float(apart["sampler_kl"].mean()),
    }
    if cap is not None:
        weights = [one.importance(cap) for one in answers]
        figures["importance"] = sum(weights) / len(weights)
        figures["at_cap"] = sum(weight >= cap for weight in weights) / len(weights)
    return figures


def _plain(text: str) -> str:
    """Half a character at the end is not shown, and a NUL is stored as U+FFFD."""
    return " ".join(text.replace("\0", "\ufffd").split()).rstrip("\ufffd ")


def _chunks(order: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    for start in range(0, len(order), size):
        yield order[start : start + size]
