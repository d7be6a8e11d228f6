"""Claims of a demonstration with their observations, as a table and as demo.json."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from infra.simulate.users.bounds import Counts
from infra.simulate.users.judgement import WinRate
from infra.simulate.users.training_loop import LoopRun

SUMMARY = "demo.json"
SHOWN_SAMPLES = 6


@dataclass(frozen=True)
class Claim:
    """A claim. `holds` is measured, and `seen` is the observation."""

    text: str
    holds: bool
    seen: str


@dataclass(frozen=True)
class Outcome:
    """All observations of a demonstration."""

    crowd: Counts
    companions: Counts
    # The name is a key of demo.json.
    turn: LoopRun
    served: str
    win_rate: WinRate | None
    minutes: dict[str, float]
    claims: tuple[Claim, ...]

    @property
    def holds(self) -> bool:
        return all(claim.holds for claim in self.claims)


def lines(outcome: Outcome) -> Iterable[str]:
    """Yield the lines of the table."""
    waits = ""
    if ordered := sorted(outcome.companions.waits):
        median = ordered[len(ordered) // 2]
        waits = f"; answer time: median {median:.2f} s, longest {ordered[-1]:.1f} s"
    if outcome.win_rate:
        win_rate = outcome.win_rate.text()
    elif outcome.turn.promoted:
        win_rate = "unknown: the evaluation failed"
    else:
        win_rate = "not measured: no version was promoted"
    minutes = ", ".join(f"{name} {value:.1f}" for name, value in outcome.minutes.items())
    rows = [
        ("thumbs", outcome.crowd.text()),
        ("meanwhile", outcome.companions.text() + waits),
        *_run_rows(outcome.turn),
        ("result", result_text(outcome.turn)),
        ("served now", outcome.served),
        ("win rate", win_rate),
        ("minutes", f"{sum(outcome.minutes.values()):.1f} ({minutes})"),
        (
            "steps of the run",
            ", ".join(f"{name} {s:.0f} s" for name, s in outcome.turn.step_seconds.items()),
        ),
        ("report", f"{outcome.turn.report}"),
    ]
    yield from (f"{name:<18}{value}" for name, value in rows)
    samples = outcome.win_rate.samples if outcome.win_rate else ()
    for sample in samples[:: max(1, len(samples) // SHOWN_SAMPLES)]:
        yield f"  asked   {sample.question}"
        yield f"  before  {sample.before}"
        yield f"  after   {sample.after}"
    yield from claim_lines(outcome.claims)


def result_text(run: LoopRun) -> str:
    """Return the result with its reason; reasons of the gate begin with the result."""
    return run.reason if run.reason.startswith(run.result) else f"{run.result}: {run.reason}"


def claim_lines(claims: Sequence[Claim]) -> Iterable[str]:
    """Yield a line per claim with its observation."""
    yield from (
        f"{'holds ' if claim.holds else 'FAILS '} {claim.text}: {claim.seen}" for claim in claims
    )


def write_summary(outcome: Outcome, state: Path) -> None:
    """Write demo.json into the state folder."""
    (state / SUMMARY).write_text(
        json.dumps(asdict(outcome), indent=1, default=str, ensure_ascii=False) + "\n"
    )


def _run_rows(run: LoopRun) -> Iterable[tuple[str, str]]:
    snapshot, sets = run.snapshot, run.sets
    dropped = ", ".join(f"{count} {name}" for name, count in snapshot["dropped"].items())
    yield (
        "snapshot",
        f"{snapshot['thumbs_up']} up, {snapshot['thumbs_down']} down, "
        f"{snapshot['corrections']} corrections of {snapshot['principals']} users; "
        f"dropped: {dropped or 'nothing'}",
    )
    noise = sets["label_noise"]["flipped"]
    yield (
        "pairs",
        f"{sets['pairs']} for training, {sets['judge_pairs']} for the judge, "
        f"{sets['held_out_pairs']} held out; "
        f"label noise {'unknown' if noise is None else f'{noise:.3f}'}",
    )
    if run.health:
        model, judge = run.health["reward_model"], run.health["judge"]
        ceiling = sets["held_out_ceiling"]
        best = "unknown" if ceiling is None else f"{ceiling:.3f}"
        yield (
            "reward model",
            f"{model['value']:.3f} ± {model['error']:.3f} of held-out pairs, "
            f"ceiling {best}; judge {judge['value']:.3f}",
        )
    if run.gate:
        checks = run.gate["checks"]
        passed = sum(check["passed"] for check in checks)
        yield "gate", f"{passed} of {len(checks)} checks passed: {run.gate['reason']}"
    if run.canary:
        yield (
            "canary",
            f"{run.canary['verdict']} after {run.canary['looks']} looks: {run.canary['reason']}",
        )
