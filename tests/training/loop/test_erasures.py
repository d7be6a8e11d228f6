"""The loop with users who request erasure or withdraw their consent."""

import json
import re
from pathlib import Path

import pytest

from tests.support.errors import refused
from tests.training.fake_rollout import FakeClock, FakeRollout
from tests.training.state_folder import StateFolder, holding, lax, question
from training.artifacts.manifest import write_manifest
from training.artifacts.registry import RegistryError, VersionStage
from training.data.feedback.snapshot import read_judgements
from training.erasure import apply_erasures
from training.loop import run_loop
from training.loop_run import NotEnoughFeedbackError, unusable_reason
from training.recipes.nano import nano
from training.runs import Runs


@pytest.fixture
def kept(tmp_path: Path) -> StateFolder:
    return StateFolder(tmp_path)


def status(kept: StateFolder) -> dict[str, object]:
    return json.loads((kept.loop / "status.json").read_text())


def test_a_run_with_an_erased_snapshot_restarts_with_a_message(kept: StateFolder) -> None:
    kept.chat("ann", "bob")
    begun = kept.begin("nano-1")
    snapshot, began = begun.snapshot.id, begun.record.started
    assert (status(kept)["needed_thumbs"], status(kept)["learned_until"]) == (1, began)
    kept.log.erase("ann")
    with refused(NotEnoughFeedbackError, field="feedback", reason="TOO_SMALL") as caught:
        run_loop("nano", nano, kept.environment())
    assert re.findall(r"\d+", str(caught.value))[:2] == ["12", "200"]
    assert [
        line for line in kept.said.getvalue().splitlines() if "nano-1" in line and snapshot in line
    ]
    result = Runs(kept.loop).result("nano-1")
    assert result is not None
    assert result.result == "erased"
    assert "erased" in (kept.loop / "runs" / "nano-1" / "report.html").read_text()
    assert kept.registry.history()[-1].stage is VersionStage.ERASED
    assert (status(kept)["run"], status(kept)["result"]) == ("nano-2", "not_enough_feedback")
    assert (status(kept)["needed_thumbs"], status(kept)["learned_until"]) == (200, began)
    told = {"version": "nano-1", "snapshot": snapshot, "erasures": 1, "through": []}
    assert status(kept)["erased_versions"] == [told]
    assert holding(kept.loop, question("ann")) == []


def test_a_candidate_with_an_erased_snapshot_is_rolled_back(
    kept: StateFolder,
) -> None:
    rollout = FakeRollout(FakeClock())
    kept.chat("ann")
    kept.begin("nano-1")
    rollout.start("nano-1", kept.state, 0.5, 60)
    kept.log.erase("ann")
    with pytest.raises(NotEnoughFeedbackError):
        run_loop("nano", nano, kept.environment(rollout))
    assert rollout.calls == ["start nano-1 0.5", "roll_back nano-1"]
    assert rollout.stable == "nano-0"


def test_a_stable_version_counts_as_promoted_despite_an_incomplete_run(
    kept: StateFolder,
) -> None:
    kept.chat("ann")
    kept.begin("nano-1")
    kept.registry.admit(kept.registry.directory("nano-0"), "nano-1")
    rollout = FakeRollout(FakeClock(), stable="nano-1")
    kept.log.erase("ann")
    with pytest.raises(NotEnoughFeedbackError):
        run_loop("nano", nano, kept.environment(rollout))
    assert rollout.calls == []
    assert kept.registry.promoted() == "nano-1"


def test_withdrawn_consent_removes_earlier_feedback_from_new_snapshots(
    kept: StateFolder,
) -> None:
    kept.chat("ann", "bob")
    first = kept.finish("nano-1").snapshot
    kept.log.forbidden = {"ann"}
    second = kept.finish("nano-2").snapshot
    asked = [{j.context[0].content[:-3] for j in read_judgements(s)} for s in (first, second)]
    assert asked == [{question("ann"), question("bob")}, {question("bob")}]
    assert second.manifest.report["dropped"] == {"no_consent": 30}


def test_a_run_is_not_resumed_with_feedback_whose_consent_was_withdrawn(
    kept: StateFolder,
) -> None:
    """Consent was once read with the snapshot only, which a resumed run may use days later."""
    kept.chat("ann", "bob")
    begun = kept.begin("nano-1")
    kept.log.forbidden = {"ann"}
    with refused(NotEnoughFeedbackError, field="feedback", reason="TOO_SMALL"):
        run_loop("nano", nano, kept.environment())
    result = Runs(kept.loop).result("nano-1")
    assert result is not None
    assert (result.result, re.findall(r"\d+", result.reason)[:2]) == ("erased", ["1", "2"])
    assert begun.snapshot.id in result.reason
    assert status(kept)["run"] == "nano-2"
    # The texts of the withdrawn user are in no file of the run that replaces it.
    assert not (kept.loop / "runs" / "nano-2").exists()


@pytest.mark.parametrize("withdrawn", ["ann", "rae"])
def test_a_run_is_not_resumed_without_the_consent_of_user_and_reviewer(
    kept: StateFolder, withdrawn: str
) -> None:
    kept.chat("bob")
    kept.rank("ann", rater="rae")
    begun = kept.begin("nano-1")
    assert unusable_reason(begun.record, lax, begun.env) is None
    kept.log.forbidden = {withdrawn}
    reason = unusable_reason(begun.record, lax, begun.env)
    assert reason is not None
    assert reason.startswith("1 of 3 users")


def test_consent_withdrawn_after_training_ends_no_canary(kept: StateFolder) -> None:
    kept.chat("ann", "bob")
    begun = kept.begin("nano-1")
    begun.config.ppo.output_directory.mkdir(parents=True)
    write_manifest(begun.config.ppo.output_directory, kind="model", version="nano-1")
    kept.log.forbidden = {"ann"}
    assert unusable_reason(begun.record, nano, kept.environment()) is None
    kept.log.erase("ann")
    apply_erasures(kept.log, kept.loop, kept.registry)
    assert unusable_reason(begun.record, nano, kept.environment())


def test_ignored_rows_start_no_new_run(kept: StateFolder) -> None:
    kept.chat("ann", "bob")
    kept.log.forbidden = {"bob"}
    kept.finish("nano-1")
    kept.chat("bob", about="more")
    with refused(NotEnoughFeedbackError, field="snapshot", reason="DUPLICATE") as caught:
        kept.begin("nano-2")
    assert "nano-1" in str(caught.value)


def test_erasures_are_applied_even_if_the_run_cannot_begin(kept: StateFolder) -> None:
    kept.chat("ann")
    kept.finish("nano-1")
    kept.log.erase("ann")
    with refused(RegistryError, field="version", reason="UNKNOWN") as caught:
        run_loop("nano", nano, kept.environment(FakeRollout(FakeClock(), stable="nano-9")))
    assert "nano-9" in str(caught.value)
    assert holding(kept.loop, question("ann")) == []
