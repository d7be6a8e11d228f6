"""When policy learning must stop: each alarm is a state that the reward alone would call a success.

Figures are kept by name in the numbers of a run's checkpoint, so that a resumed run alarms where
the straight one would.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

REPORTED = ("score", "kl", "eos_rate", "response_tokens", "gold_score")
SMOOTHING = 0.3  # of each new figure: about the last five updates count


@dataclass(frozen=True)
class Limits:
    """kl_ceiling_nats: per response; None: no reference is asked. gold_drop: in the gold judge's
    own scores.
    """

    kl_ceiling_nats: float | None = 20.0
    length_floor_fraction: float = 0.25  # of the first update's mean length
    gold_drop: float = 0.5


def note(numbers: dict[str, float], figures: Mapping[str, float]) -> None:
    """Remember the first and the newest of what the report and the alarms need, and the best that
    the gold judge has seen.
    """
    for name in REPORTED:
        if name in figures:
            numbers.setdefault(f"first_{name}", figures[name])
            numbers[f"last_{name}"] = figures[name]
    if "gold_score" in figures:
        for name in ("score", "gold_score"):
            before = numbers.get(f"smooth_{name}", figures[name])
            numbers[f"smooth_{name}"] = before + SMOOTHING * (figures[name] - before)
        if numbers["smooth_gold_score"] >= numbers.get("best_gold_score", float("-inf")):
            numbers["best_gold_score"], numbers["score_at_best"] = (
                numbers["smooth_gold_score"],
                numbers["smooth_score"],
            )


def alarm(numbers: Mapping[str, float], limits: Limits) -> str:
    """Why training must stop before it learns from this rollout, or ""."""
    length, floor = (
        numbers["last_response_tokens"],
        limits.length_floor_fraction * numbers["first_response_tokens"],
    )
    if limits.kl_ceiling_nats is not None and numbers["last_kl"] > limits.kl_ceiling_nats:
        return f"KL to the reference {numbers['last_kl']:.2f} nats, above the ceiling of {limits.kl_ceiling_nats:g}"
    if length < floor:
        return f"responses collapsed to {length:.1f} tokens, below the floor of {floor:.1f}"
    if "best_gold_score" in numbers:
        fall = numbers["best_gold_score"] - numbers["smooth_gold_score"]
        if fall > limits.gold_drop and numbers["smooth_score"] > numbers["score_at_best"]:
            return f"over-optimisation: the score rises, the gold judge's fell by {fall:.2f}, more than {limits.gold_drop:g}"
    return ""


def teaches_nothing(figures: Mapping[str, float]) -> bool:
    """Whether all answers to each prompt scored the same, so that nothing can be learned from their
    scores. No reason to stop: the next prompts may be others.
    """
    return figures.get("zero_variance_groups") == 1
