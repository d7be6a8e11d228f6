"""Warnings about a stage without the intended effect, by its figures.

They are computed from the report in the manifest and the steps, for the terminal and the page. A
stage with warnings is finished like any other. An infinite loss or NaN is an error of the stage.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from training.figures import Z_95, Estimate, change_bounds
from training.rl.alarms import has_no_signal
from training.runtime.context import Progress

# Three of four right is better than chance for 20 observations (0.53 to 0.89, Wilson, 95 %) but not
# for 12 (0.47 to 0.91).
FEWEST_HELD_OUT = 20
# The same weights give the same loss up to the rounding of bfloat16; a larger rise is of training.
LARGEST_RISE = 1e-3  # relative
CHANCE = 0.5  # accuracy on pairs and thumbs of a model that was not trained
LOST_SHARE = 0.5  # of the updates: the run cost twice what its effect needed
CLIPPED_SHARE = 0.5  # of the scores: most responses can no longer change their reward
SMALLEST_VARIANCE = 1e-12  # of scores, relative: below that they differ by rounding alone

LOSSES = ("held_out_loss", "bits_per_byte")
# Counts of independent held-out observations. The first of a report counts: pairs of one prompt
# are not independent.
HELD_OUT = (
    *("held_out_prompts", "held_out_examples", "held_out_pairs", "held_out_thumbs"),
    "held_out_documents",
)


def warnings_of(report: Mapping[str, Any], steps: Sequence[Progress]) -> list[str]:
    """Return the warnings of a stage, a line each, the most serious first.

    Args:
        report: report of the manifest; empty before the end of the stage.
        steps: each step once, in order.
    """
    return [*_worse(report, steps), *_no_signal(steps), *_few_held_out(report)]


def measured_warnings(items: int, gain: Estimate) -> list[str]:
    """Return the warnings of a measurement on held-out items before and after training."""
    texts = []
    if change_bounds(gain, Z_95)[1] < 0:
        texts.append(f"the accuracy on held-out items fell by {-gain.value:.3g}")
    return [*texts, *_few(items, "items")]


def _worse(report: Mapping[str, Any], steps: Sequence[Progress]) -> Iterator[str]:
    """Yield a warning for each figure of held-out data worse than before training."""
    for name in LOSSES:
        measured = [step.metrics[name] for step in steps if name in step.metrics]
        # Without a measurement before training, the first one of training takes its place.
        began = "before training" if f"{name}_before" in report else "at the first measurement"
        before = report.get(f"{name}_before", measured[0] if measured else None)
        after = report.get(name)
        if before is not None and after is not None and after > before * (1 + LARGEST_RISE):
            words = name.replace("held_out", "held-out").replace("_", " ")
            yield (
                f"{words} rose from {before:.4g} {began} to {after:.4g}: the model is worse "
                "on data that it has not seen; lower the learning rate or train fewer steps"
            )
    accuracy = report.get("held_out_accuracy")
    if accuracy is not None and accuracy < CHANCE:
        yield (
            f"held-out accuracy is {accuracy:.3g}, less than the {CHANCE:g} of a model without "
            "training"
        )


def _no_signal(steps: Sequence[Progress]) -> Iterator[str]:
    """Yield a warning if the scores of a policy's responses could not teach much."""
    scored = [step.metrics for step in steps if "score" in step.metrics]
    lost = [metrics for metrics in scored if has_no_signal(metrics) or is_constant(metrics)]
    if scored and len(lost) >= LOST_SHARE * len(scored):
        last = lost[-1]["score"]
        yield (
            f"no learning signal in {len(lost)} of {len(scored)} updates: all responses that are "
            f"compared had the same score (mean {last:.3g} in the last of these updates); use "
            "prompts of another difficulty or another reward"
        )
    clipped = scored[-1].get("clipped_scores", 0.0) if scored else 0.0
    if clipped >= CLIPPED_SHARE:
        yield (
            f"{clipped:.0%} of the scores are at the bound reward.score_clip in the last update: "
            "these responses cannot change their reward; raise the bound or use another reward "
            "model"
        )


def is_constant(metrics: Mapping[str, float]) -> bool:
    """Return True if all scores of an update are equal, up to rounding."""
    limit = SMALLEST_VARIANCE * max(1.0, metrics["score"] ** 2)
    return metrics.get("score_variance", 1.0) <= limit


def _few_held_out(report: Mapping[str, Any]) -> Iterator[str]:
    name = next((name for name in HELD_OUT if name in report), None)
    if name is not None:
        yield from _few(report[name], name.removeprefix("held_out_"))


def _few(count: int, what: str) -> Iterator[str]:
    if count == 0:
        yield f"no held-out {what}: the effect on data that the model has not seen is unknown"
    elif count < FEWEST_HELD_OUT:
        yield (
            f"only {count} held-out {what}: figures on fewer than {FEWEST_HELD_OUT} may be chance; "
            "use more data or a larger held-out share"
        )
