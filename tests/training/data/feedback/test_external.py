"""Answers of external models in the log: they train nothing unless the settings name the model."""

import json
from collections import Counter
from pathlib import Path

import pytest

from tests.training.feedback_log import FeedbackLog, uid
from training.data.feedback.catalogue import Directory
from training.data.feedback.judgements import Judgement
from training.data.feedback.rankings import Ranking
from training.data.feedback.sets import SetsConfig, make_sets
from training.data.feedback.snapshot import (
    DROPPED,
    Snapshot,
    SnapshotConfig,
    read_feedback,
    take_snapshot,
)
from training.recipes.custom.loop_fields import set_loop_fields
from training.recipes.nano import nano
from training.recipes.recipe import Plan

FOREIGN = "external.rival"
CONFIG = SetsConfig(held_out_fraction=0.01, judge_fraction=0.01, max_user_share=1.0)
REASON = "answer_of_external_model"


@pytest.fixture
def log(tmp_path: Path) -> FeedbackLog:
    """Return a log with an own and a foreign answer to each of two questions."""
    log = FeedbackLog(tmp_path / "objects", sealing=True)
    for name, version in (("own", "nano-0"), ("foreign", FOREIGN)):
        log.turn(name, "ann", "hi", f"answer {name}", model_version=version, arm="battle")
        log.turn(f"{name}2", "ann", "bye", f"answer {name}2", model_version=version)
    return log


def snapshot_of(log: FeedbackLog, tmp_path: Path, *trained: str) -> Snapshot:
    log.commit()
    config = SnapshotConfig(100, trained)
    return take_snapshot(
        log, Directory(tmp_path / "objects"), config, tmp_path / "snapshots", "commit"
    )


def dropped(snapshot: Snapshot) -> Counter[str]:
    with (snapshot.directory / DROPPED).open() as opened:
        return Counter(json.loads(line)["reason"] for line in opened)


@pytest.mark.parametrize("ranks", [(1, 2), (2, 1)])
def test_a_vote_on_an_external_answer_gives_no_pair(
    log: FeedbackLog, tmp_path: Path, ranks: tuple[int, int]
) -> None:
    log.rank("own", "ann", ("own", ranks[0]), ("foreign", ranks[1]))
    snapshot = snapshot_of(log, tmp_path)
    assert read_feedback(snapshot) == []
    assert dropped(snapshot) == {REASON: 1}
    (ranking,) = read_feedback(snapshot_of(log, tmp_path, "rival"))
    assert isinstance(ranking, Ranking)
    assert [answer.text for answer in ranking.answers] == ["answer own", "answer foreign"]
    (pair,) = make_sets([ranking], CONFIG).pairs
    assert "answer foreign" in (pair.chosen, pair.rejected)


def test_a_ranking_keeps_its_other_answers(log: FeedbackLog, tmp_path: Path) -> None:
    log.turn("third", "ann", "hi", "answer third", model_version="nano-1")
    log.rank("own", "ann", ("foreign", 1), ("own", 2), ("third", 3), rater="rae")
    (ranking,) = read_feedback(snapshot_of(log, tmp_path))
    assert isinstance(ranking, Ranking)
    assert [answer.text for answer in ranking.answers] == ["answer own", "answer third"]
    assert ranking.left_out == 1


def test_a_text_of_an_external_model_without_a_turn_is_left_out(
    log: FeedbackLog, tmp_path: Path
) -> None:
    log.rank("own", "ann", ("own", 1), ("a foreign text", 2), rater="rae", version=FOREIGN)
    assert read_feedback(snapshot_of(log, tmp_path)) == []


def test_thumbs_and_corrections_of_external_answers_give_no_example(
    log: FeedbackLog, tmp_path: Path
) -> None:
    for name in ("own", "foreign", "own2", "foreign2"):
        log.thumb(name, "ann", True)
        log.write(name, "ann", f"better {name}", rater="rae")
    log.correct("foreign", "ann", "corrected foreign")
    snapshot = snapshot_of(log, tmp_path)
    given = read_feedback(snapshot)
    assert {one.message_id for one in given} == {uid("own"), uid("own2")}
    assert dropped(snapshot) == {REASON: 5}
    sets = make_sets(given, CONFIG)
    assert sets.sft
    assert not [line for line in sets.sft if "foreign" in line["response"]]
    # Another model than the named one stays out.
    assert read_feedback(snapshot_of(log, tmp_path, "rival-2")) == given
    with_foreign = read_feedback(snapshot_of(log, tmp_path, "rival"))
    assert {one.answer for one in with_foreign if isinstance(one, Judgement)} >= {"answer foreign"}


def test_ids_of_snapshots_depend_on_the_setting_only_if_it_is_used(
    log: FeedbackLog, tmp_path: Path
) -> None:
    log.thumb("own", "ann", True)
    # Written by the release before the setting.
    before = "snapshot-90b2ce43f79c"
    assert snapshot_of(log, tmp_path).id == before
    assert snapshot_of(log, tmp_path, "other").id != before


def test_the_models_are_a_field_of_the_recipe(tmp_path: Path) -> None:
    plan = Plan("v1", tmp_path, tmp_path)
    config = set_loop_fields(nano(plan), ["snapshot.train_external=rival,other"])
    assert config.snapshot.train_external == ("rival", "other")
