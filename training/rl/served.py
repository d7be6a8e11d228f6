"""Comparison of served answers with the starting model: log-probs on the sampled ids.

The same weights must give nearly the same log-probs. A larger difference means another cause, and
training on these answers is rejected. Shapes: B rows, T tokens, N tokens of all rows.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
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
from training.rl.config import OffPolicyConfig
from training.rl.correction import mismatch, truncated_importance
from training.rl.reference import response_token_log_probs

# Reasons why a sample does not match its answer.
OTHER_PROMPT = "its prompt had another number of tokens"
WITHOUT_END = "it does not end with a token that ends a response"
OTHER_TEXT = "its tokens are not its text"
# Fraction of a version's answers. Single unusual characters cause fewer mismatches; more of them
# mean another tokenizer or chat template.
UNFIT_SHARE = 0.05


class OffPolicyError(DetailedError, ValueError):
    """Served answers that must not be trained on; the text names the field and the finding."""

    reason = "OFF_POLICY"


@dataclass(frozen=True)
class ServedAnswer:
    """ServedAnswer to learn from.

    The sampled ids are the response, unless there is no sample (None) or the sample is `unfit`.
    """

    example: TokenisedExample
    served: Served | None = None
    unfit: str = ""


@dataclass(frozen=True)
class Measured:
    """Log-probs of an answer by the starting model and by the version that served it.

    [N] each, on the CPU.
    """

    version: str
    trainer_N: Tensor
    served_N: Tensor

    def importance(self, cap: float) -> float:
        """Return min(p_start / p_served, cap) of the whole response.

        The KTO loss has a single weight per response (kto in losses.py).
        """
        sums = (self.trainer_N.sum().reshape(1, 1), self.served_N.sum().reshape(1, 1))
        return float(truncated_importance(*sums, cap))


def read_answer(
    served: Served | None, messages: Sequence[Message], response: str, chat: Chat
) -> ServedAnswer:
    """Tokenise an answer with its end token.

    The sampled ids are used if they match the text under this tokenizer, otherwise the ids of the
    text.
    """
    prompt = tuple(chat.prompt_ids(messages))
    reason = _unfit(served, prompt, response, chat) if served else ""
    sampled = served.token_ids if served and not reason else None
    return ServedAnswer(
        TokenisedExample(prompt, sampled or tuple(chat.response_ids(response))), served, reason
    )


def compare_log_probs(
    load: Callable[[], Backbone],
    starting: str,
    answers: Sequence[ServedAnswer],
    config: OffPolicyConfig,
    batch_rows: int,
    autocast: Callable[[], AbstractContextManager[Any]],
) -> tuple[list[ServedAnswer], dict[str, Any]]:
    """Compare sampled answers with the starting model.

    The model is loaded only if there are samples.

    Returns:
        answers: each with its importance as weight if a cap is set.
        figures: answers_unsampled, answers_unfit, and off_policy by version (see `figures_of`).

    Raises:
        OffPolicyError: a version is not allowed, the log-probs of the starting model's own answers
            differ here, or answers from a nucleus would be weighted.
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
    if config.importance_cap is not None:
        check_untruncated([served for place in places if (served := answers[place].served)])
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
    """Return why the sample does not match this answer, or "".

    Spaces are ignored.
    """
    if served.prompt_tokens and served.prompt_tokens != len(prompt):
        return OTHER_PROMPT
    if served.token_ids[-1] not in chat.stop_ids:
        return WITHOUT_END
    # The generator restores control tokens in answers, which the model wrote as plain text.
    sampled, shown = (chat.plain_text(text) for text in (chat.decode(served.token_ids), response))
    if _plain(sampled) != _plain(shown):
        return OTHER_TEXT
    return ""


def check_versions(versions: Sequence[str | None], starting: str, config: OffPolicyConfig) -> None:
    """Reject answers of versions that are not allowed; None means an answer without a sample.

    Raises:
        OffPolicyError: names the versions and their numbers of answers.
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


def check_untruncated(samples: Sequence[Served]) -> None:
    """Reject weights for answers that were sampled from a nucleus.

    The recorded log-probs are those of the whole distribution. The nucleus gives its tokens higher
    probabilities and all others 0, so p_start / p_served is not the weight of such an answer, and
    the starting model's mass outside the nucleus is never sampled.

    Raises:
        OffPolicyError: names the versions and their numbers of answers.
    """
    truncated = Counter(
        f"{served.version} at {served.top_p:g}" for served in samples if served.top_p != 1
    )
    if truncated:
        found = ", ".join(f"{name} ({count})" for name, count in sorted(truncated.items()))
        raise OffPolicyError(
            f"served.top_p: answers of {found} were sampled below top_p 1 (0: unknown), and "
            "off_policy.importance_cap cannot weigh them; without it they train with weight 1",
            field="served.top_p",
            reason="CONFLICT",
            limit="1 with off_policy.importance_cap",
        )


def check_fit(reasons: Sequence[str], starting: str) -> None:
    """Reject samples of the starting model if too many do not match their answers.

    Args:
        reasons: a reason per answer of the starting model, "" for a match.

    Raises:
        OffPolicyError: names the most frequent reason.
    """
    wrong = Counter(reason for reason in reasons if reason)
    if wrong.total() > UNFIT_SHARE * len(reasons):
        (reason, _), *_ = wrong.most_common(1)
        raise OffPolicyError(
            f"{wrong.total()} of {len(reasons)} answers of {starting} do not match the same "
            f"version here ({reason}): its tokenizer or chat template has changed since",
            field="served",
            reason="MISMATCH",
            limit=f"at most {UNFIT_SHARE:.0%}",
        )


@torch.no_grad()
def measure(
    backbone: Backbone,
    rows: Sequence[ServedAnswer],
    batch_rows: int,
    autocast: Callable[[], AbstractContextManager[Any]],
) -> list[Measured]:
    """Compute the starting model's log-probs of all sampled answers, in the order of `rows`.

    Every rank computes all of them, so no exchange is needed.
    """
    order = sorted(range(len(rows)), key=lambda place: rows[place].example.tokens)
    found: dict[int, Measured] = {}
    for start in range(0, len(order), batch_rows):
        places = order[start : start + batch_rows]
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
    """Return figures by version.

    The figures are answers, tokens, mismatch (mean |difference| in nats per token) and kl (k3 per
    token). With a cap also the mean importance and the fraction of answers at the cap.
    """
    by_version: dict[str, list[Measured]] = defaultdict(list)
    for one in measured:
        by_version[one.version].append(one)
    found = {}
    for version, answers in sorted(by_version.items()):
        trainer_N = torch.cat([one.trainer_N for one in answers])
        served_N = torch.cat([one.served_N for one in answers])
        apart = mismatch(trainer_N, served_N, torch.ones_like(served_N))
        figures = {
            "answers": len(answers),
            "tokens": len(served_N),
            "mismatch": float(apart["sampler_mismatch"].mean()),
            "kl": float(apart["sampler_kl"].mean()),
        }
        if (cap := config.importance_cap) is not None:
            weights = [one.importance(cap) for one in answers]
            figures["importance"] = sum(weights) / len(weights)
            figures["at_cap"] = sum(weight >= cap for weight in weights) / len(weights)
        found[version] = figures
    return found


def check_mismatch(
    figures: Mapping[str, Mapping[str, float]], starting: str, config: OffPolicyConfig
) -> None:
    """Reject the starting model's own answers if their log-probs differ too much here.

    Raises:
        OffPolicyError: names the measured and the allowed difference.
    """
    own = figures.get(starting)
    if own and not own["mismatch"] <= config.mismatch_limit_nats:
        raise OffPolicyError(
            f"off_policy.mismatch_limit_nats: log-probs of {starting} for its own answers differ "
            f"by {own['mismatch']:.3g} nats per token from those of serving, allowed are "
            f"{config.mismatch_limit_nats:g}; possible causes: other weights under this name, "
            "another tokenizer or chat template, a coarser quantisation, or log-probs that are "
            "not those of the raw model",
            field="off_policy.mismatch_limit_nats",
            reason="MISMATCH",
            limit=f"at most {config.mismatch_limit_nats:g}",
        )


def _plain(text: str) -> str:
    """Normalise text: drop partial characters at the end, and NUL, which is stored as U+FFFD."""
    return " ".join(text.replace("\0", "\ufffd").split()).rstrip("\ufffd ")
