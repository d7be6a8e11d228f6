"""Account of a version: data and consent, scores, gate and canary."""

from pathlib import Path

import pytest

from durable_files.files import write_json
from tests.support.errors import refused
from tests.training.state_folder import StateFolder
from training.artifacts.manifest import write_manifest
from training.artifacts.registry import Registry, RegistryError
from training.artifacts.scores import ItemScore, ScoreStore, TaskScore
from training.erasure import apply_erasures
from training.reporting.lineage import describe_version
from training.runs import RunRecord, RunResult, Runs

SNAPSHOT = "snapshot-0123456789ab"


@pytest.fixture
def loop(tmp_path: Path) -> Path:
    """Return the folder of a loop with two runs: nano-1 is complete, nano-2 has begun."""
    runs = Runs(tmp_path)
    (runs.snapshots / SNAPSHOT).mkdir(parents=True)
    write_manifest(
        runs.snapshots / SNAPSHOT,
        kind="snapshot",
        version=SNAPSHOT,
        report={
            "thumbs_up": 7,
            "thumbs_down": 3,
            "corrections": 1,
            "principals": 4,
            "dropped": {"no_consent": 5, "erased": 2},
        },
    )
    runs.begin(RunRecord("nano-1", "nano", "nano-0", SNAPSHOT, "2026-11-01T00:00:00+00:00"))
    runs.begin(RunRecord("nano-2", "nano", "nano-1", "snapshot-gone", "2026-11-02T00:00:00+00:00"))
    check = {"name": "win rate", "value": "0.8", "threshold": "0.5", "passed": True, "reason": ""}
    write_json(
        runs.directory("nano-1") / "gate.json",
        {"passed": True, "reason": "all checks passed", "checks": [check]},
    )
    write_json(runs.directory("nano-1") / "canary.json", {"verdict": "promote", "reason": "liked"})
    runs.end("nano-1", RunResult("promoted", "liked", "2026-11-01T01:00:00+00:00"))
    score = TaskScore("nano-1", "piqa", "acc_norm", 0.5, 0.1, 2, "a" * 64, "b" * 64)
    ScoreStore(tmp_path).write(score, [ItemScore("0", 1.0), ItemScore("1", 0.0)])
    return tmp_path


def described(loop: Path, version: str) -> dict[str, str]:
    """Return the first line of each fact by its name."""
    lines = describe_version(version, loop, Registry(loop / "models")).splitlines()
    return {line[:12].strip(): line[12:] for line in reversed(lines) if line[:12].strip()}


def test_a_finished_version_is_traced_to_its_data_and_verdicts(loop: Path) -> None:
    facts = described(loop, "nano-1")
    assert facts["ancestors"] == "nano-0"
    assert facts["snapshot"] == f"{SNAPSHOT}: 7 thumbs up, 3 down, 1 corrections"
    assert facts["consent"].startswith("4 users")
    assert "5 events without consent, 2 erased" in facts["consent"]
    assert facts["gate"] == "passed: all checks passed"
    assert facts["canary"] == "promote: liked"
    assert facts["result"].startswith("promoted at 2026-11-01T01:00:00+00:00")
    assert facts["scores"].startswith("piqa: acc_norm 0.5 ± 0.1 (standard error) on 2 items")


def test_an_unfinished_version_with_a_deleted_snapshot_says_so(loop: Path) -> None:
    facts = described(loop, "nano-2")
    assert facts["ancestors"] == "nano-1, nano-0"
    assert (facts["result"], facts["snapshot"]) == (
        "unfinished",
        "snapshot-gone, no longer stored",
    )
    assert not {"gate", "canary", "scores"} & facts.keys()


def test_an_unknown_version_is_an_error(loop: Path) -> None:
    with refused(RegistryError, field="version"):
        describe_version("nano-9", loop, Registry(loop / "models"))


def test_votes_rankings_and_written_answers_are_named_with_their_use(tmp_path: Path) -> None:
    kept = StateFolder(tmp_path)
    kept.chat("ann", "bob")
    kept.rank("ann", rater="rae")
    kept.log.rank("ann-first", "ann", ("ann-first", 1), ("ann-second", 2))
    kept.log.write("ann-first", "ann", "whispered better", rater="rae")
    kept.log.commit()
    run = kept.begin("nano-1")
    text = describe_version("nano-1", kept.loop, kept.registry)
    assert (
        "1 votes of the arena, 1 rankings and 1 written answers by 1 reviewers, all with consent"
    ) in text
    counts = run.sets.counts()["by_source"]
    for name, by_source in counts.items():
        found = ", ".join(f"{source} {count}" for source, count in by_source.items()) or "none"
        assert f"{name.replace('_', ' ')}: {found}" in text
    kept.log.erase("rae")
    apply_erasures(kept.log, kept.loop, kept.registry)
    assert "1 users erased since" in describe_version("nano-1", kept.loop, kept.registry)
