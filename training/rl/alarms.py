"""Alarms that stop policy learning: states that the reward alone would show as a success.

The figures are stored by name in the numbers of a checkpoint, so a resumed run raises the same
alarms as an uninterrupted one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

REPORTED = (
    *("score", "kl", "eos_rate", "response_tokens", "gold_score"),
    *("preference_score", "verifiable_score"),
)
SMOOTHING = 0.3  # weight of a new figure: about the last five updates count


@dataclass(frozen=True)
class Limits:
    """Limits of the alarms.

    Attributes:
        kl_ceiling_nats: KL per response; None if there is no reference.
        gold_drop: fall of the gold judge's score, in its own units.
    """

    kl_ceiling_nats: float | None = 20.0
    length_floor_fraction: float = 0.25  # of the mean length in the first update
    gold_drop: float = 0.5


def record_figures(numbers: dict[str, float], figures: Mapping[str, float]) -> None:
    """Record first and last figures, and the best smoothed score of the gold judge."""
    for name in REPORTED:
        if name in figures:
            numbers.setdefault(f"first_{name}", figures[name])
            numbers[f"last_{name}"] = figures[name]
    if "gold_score" in figures:
        # The gold judge is compared on rows that a reward model scores.
        now = {"score": figures.get("preference_score", figures["score"])}
        for name, figure in {**now, "gold_score": figures["gold_score"]}.items():
            before = numbers.get(f"smooth_{name}", figure)
            numbers[f"smooth_{name}"] = before + SMOOTHING * (figure - before)
        if numbers["smooth_gold_score"] >= numbers.get("best_gold_score", float("-inf")):
            numbers["best_gold_score"], numbers["score_at_best"] = (
                numbers["smooth_gold_score"],
                numbers["smooth_score"],
            )


def alarm(numbers: Mapping[str, float], limits: Limits) -> str:
    """Return the reason why training must stop before it learns from this rollout, or ""."""
    length, floor = (
        numbers["last_response_tokens"],
        limits.length_floor_fraction * numbers["first_response_tokens"],
    )
    if limits.kl_ceiling_nats is not None and numbers["last_kl"] > limits.kl_ceiling_nats:
        return (
            f"KL to the reference {numbers['last_kl']:.2f} nats, "
            f"above the ceiling of {limits.kl_ceiling_nats:g}"
        )
    if length < floor:
        return f"responses collapsed to {length:.1f} tokens, below the floor of {floor:.1f}"
    if "best_gold_score" in numbers:
        fall = numbers["best_gold_score"] - numbers["smooth_gold_score"]
        if fall > limits.gold_drop and numbers["smooth_score"] > numbers["score_at_best"]:
            return (
                "over-optimisation: the score rises, "
                f"the gold judge's fell by {fall:.2f}, more than {limits.gold_drop:g}"
            )
    return ""


def has_no_signal(figures: Mapping[str, float]) -> bool:
    """Return True if all answers of each prompt have equal scores.

    Such an update has no learning signal. Training continues, because the next prompts may differ.
    """
    return figures.get("zero_variance_groups") == 1
