"""Votes, rankings and written answers: from the log to pairs and examples, with their origin."""

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.feedback import wire as codec
from services.feedback.lake import parquet
from services.feedback.principals.sealing import DataKey as ServiceKey
from services.feedback.principals.sealing import MasterKey, Sealer
from services.feedback.spool.log import Record
from tests.services.feedback.samples import MASTER, RAE, ranking, rated
from tests.services.feedback.samples import correction as corrected
from tests.support.errors import refused
from tests.training.feedback_log import FeedbackLog, principal_of, uid
from training.corpus.pii.judgements import redact_feedback
from training.data.chat import Message
from training.data.feedback.catalogue import Directory, Segment
from training.data.feedback.judgements import GivenFeedback, Judgement
from training.data.feedback.pairs import LabelNoise, Pair, group_by_prompt, make_pairs
from training.data.feedback.rankings import RankedText, Ranking
from training.data.feedback.rows import DataKey, Decryptor, feedback_rows
from training.data.feedback.sets import SetsConfig, make_sets, write_sets
from training.data.feedback.snapshot import (
    DROPPED,
    Snapshot,
    SnapshotConfig,
    read_feedback,
    read_judgements,
    read_rankings,
    take_snapshot,
)
from training.data.feedback.sources import Source, SourceWeights
from training.errors import ConfigError

CONFIG = SetsConfig(held_out_fraction=0.01, judge_fraction=0.01, max_user_share=1.0)


@pytest.fixture
def log(tmp_path: Path) -> FeedbackLog:
    return FeedbackLog(tmp_path / "objects", sealing=True)


def snapshot_of(log: FeedbackLog, tmp_path: Path, cap: int = 100) -> Snapshot:
    log.commit()
    objects, config = Directory(tmp_path / "objects"), SnapshotConfig(cap)
    return take_snapshot(log, objects, config, tmp_path / "snapshots", "commit")


def dropped(snapshot: Snapshot) -> Counter[str]:
    with (snapshot.directory / DROPPED).open() as opened:
        return Counter(json.loads(line)["reason"] for line in opened)


def answered(log: FeedbackLog, user: str, *names: str, asked: str = "hi") -> None:
    for name in names:
        log.turn(name, user, asked, f"answer {name}")


def ranking_of(
    asked: str,
    *answers: tuple[str, int],
    user: str = "ann",
    rater: str = "",
) -> Ranking:
    ranked = tuple(RankedText(*answer) for answer in answers)
    context, source = (Message("user", asked),), Source.RANKING if rater else Source.ARENA
    return Ranking(f"{asked}/{user}/{rater}", user, source, context, ranked, rater)


def pairs_of(*feedback: GivenFeedback) -> list[Pair]:
    made, _ = make_pairs(group_by_prompt(feedback), LabelNoise(None, 0, 0), 100, 0)
    return sorted(made, key=lambda pair: (pair.chosen, pair.rejected))


def test_a_vote_becomes_a_pair_with_its_origin(log: FeedbackLog, tmp_path: Path) -> None:
    answered(log, "ann", "a", "b")
    log.rank("a", "ann", ("a", 2), ("b", 1))
    snapshot = snapshot_of(log, tmp_path)
    (pair,) = make_sets(read_feedback(snapshot), CONFIG).pairs
    assert (pair.chosen, pair.rejected, pair.source) == ("answer b", "answer a", Source.ARENA)
    assert (pair.weight, pair.margin) == (1, pytest.approx(1 / 3))
    assert pair.users == (frozenset([principal_of("ann")]),)
    assert (snapshot.manifest.report["votes"], snapshot.manifest.report["rankings"]) == (1, 0)


def test_a_ranking_gives_its_ordered_pairs_and_ties_none(log: FeedbackLog, tmp_path: Path) -> None:
    answered(log, "ann", "a", "b", "c")
    log.rank("a", "ann", ("a", 2), ("b", 1), ("c", 2), ("an own text", 3), rater="rae")
    pairs = pairs_of(*read_feedback(snapshot_of(log, tmp_path)))
    assert [(pair.chosen, pair.rejected) for pair in pairs] == [
        ("answer a", "an own text"),
        ("answer b", "an own text"),
        ("answer b", "answer a"),
        ("answer b", "answer c"),
        ("answer c", "an own text"),
    ]
    assert {pair.weight for pair in pairs} == {1 / 3}
    assert {pair.users for pair in pairs} == {(frozenset([principal_of("rae")]),)}


@given(st.lists(st.integers(1, 6), min_size=2, max_size=6))
@settings(max_examples=60, deadline=None)
def test_an_answer_counts_at_most_once_in_a_ranking(ranks: list[int]) -> None:
    answers = [(f"answer {number}", rank) for number, rank in enumerate(ranks)]
    weights: defaultdict[str, float] = defaultdict(float)
    for pair in pairs_of(ranking_of("hi", *answers, rater="rae")):
        weights[pair.chosen] += pair.weight
        weights[pair.rejected] += pair.weight
        ranked = dict(answers)
        assert ranked[pair.chosen] < ranked[pair.rejected]
    assert max(weights.values(), default=0) <= 1 + 1e-9
    assert sum(weights.values()) / 2 <= len(ranks) / 2 + 1e-9


def test_comparisons_of_several_raters_count_by_majority() -> None:
    for_a, for_b = [("a", 1), ("b", 2)], [("a", 2), ("b", 1)]
    two, one = [
        [ranking_of("hi", *order, rater=rater) for rater in raters]
        for order, raters in ((for_a, ("r1", "r2")), (for_b, ("r3",)))
    ]
    (pair,) = pairs_of(*two, *one)
    assert (pair.chosen, pair.rejected, pair.margin) == ("a", "b", pytest.approx(1 / 5))
    assert pair.users == (frozenset(["r1", "r2"]),)
    assert pairs_of(two[0], *one) == []
    assert make_sets([two[0], *one], CONFIG).dropped["comparisons_without_majority"] == 1


def test_a_written_answer_is_an_example_and_a_pair(log: FeedbackLog, tmp_path: Path) -> None:
    answered(log, "ann", "a")
    log.write("a", "ann", "a better answer", rater="rae")
    log.correct("a", "ann", "my own answer")
    snapshot = snapshot_of(log, tmp_path)
    sets = make_sets(read_feedback(snapshot), CONFIG)
    assert sorted((line["response"], line["weight"], line["source"]) for line in sets.sft) == [
        ("a better answer", 2.0, "written"),
        ("my own answer", 2.0, "correction"),
    ]
    assert sorted((pair.chosen, pair.rejected, pair.source) for pair in sets.pairs) == [
        ("a better answer", "answer a", Source.WRITTEN),
        ("my own answer", "answer a", Source.CORRECTION),
    ]
    assert (snapshot.manifest.report["written"], snapshot.manifest.report["corrections"]) == (1, 1)
    assert snapshot.manifest.report["raters"] == 1


def test_a_ranking_needs_the_consent_of_user_and_rater(log: FeedbackLog, tmp_path: Path) -> None:
    for user in ("ann", "bob"):
        answered(log, user, f"{user}1", f"{user}2", asked=f"{user} asks")
        log.rank(f"{user}1", user, (f"{user}1", 1), (f"{user}2", 2), rater="rae")
        log.write(f"{user}1", user, "better", rater="rae")
    log.forbidden = {"ann"}
    snapshot = snapshot_of(log, tmp_path)
    assert [one.principal for one in read_feedback(snapshot)] == [principal_of("bob")] * 2
    # The two turns, the ranking and the written answer.
    assert dropped(snapshot) == {"no_consent": 4}
    log.forbidden = {"rae"}
    assert read_feedback(snapshot_of(log, tmp_path)) == []


@pytest.mark.parametrize("erased", ["ann", "rae"])
def test_feedback_of_an_erased_user_or_rater_is_not_in_the_next_snapshot(
    log: FeedbackLog, tmp_path: Path, erased: str
) -> None:
    answered(log, "ann", "a", "b")
    log.rank("a", "ann", ("a", 1), ("b", 2), rater="rae")
    log.write("a", "ann", "better", rater="rae")
    log.rank("a", "ann", ("a", 1), ("b", 2))
    assert len(read_feedback(snapshot_of(log, tmp_path))) == 3
    log.erase(erased)
    snapshot = snapshot_of(log, tmp_path)
    assert [one.rater for one in read_feedback(snapshot)] == ([""] if erased == "rae" else [])
    assert dropped(snapshot) == {"erased": 2 if erased == "rae" else 5}
    assert all(
        principal_of(erased).encode() not in path.read_bytes()
        for path in snapshot.directory.iterdir()
    )


def test_answers_that_cannot_be_used_leave_a_ranking(log: FeedbackLog, tmp_path: Path) -> None:
    answered(log, "ann", "a", "b", "retracted")
    log.turn("retracted", "ann", [], "", erased=True, event_id=uid("erasure"))
    log.turn("cut", "ann", "hi", "an answ", finish_reason="length")
    log.turn("blocked", "ann", "hi", "no", guard_category="violence")
    answered(log, "ann", "elsewhere", asked="another question")
    others = ["retracted", "cut", "blocked", "elsewhere", "ofbob", "unknown"]
    answered(log, "bob", "ofbob")
    for number, other in enumerate(others):
        answers = [("a", 1), (other, 2), ("b", 3)]
        log.rank("a", "ann", *answers, rater=f"rae {number}", event=f"three {other}")
        log.rank("b", "ann", *answers[:2], rater=f"rae {number}", event=f"two {other}")
    snapshot = snapshot_of(log, tmp_path)
    found = read_rankings(snapshot)
    assert len(found) == 6
    assert {tuple(answer.text for answer in one.answers) for one in found} == {
        ("answer a", "answer b")
    }
    assert snapshot.manifest.report["ranked_answers_left_out"] == 6
    assert dropped(snapshot) == {
        "turn_erased": 1,
        "answer_incomplete": 1,
        "blocked_by_guard": 1,
        "answer_to_another_context": 1,
        "rated_by_another_user": 1,
        "turn_not_yet_in_log": 1,
    }


def test_a_ranking_of_another_users_answer_is_dropped(log: FeedbackLog, tmp_path: Path) -> None:
    answered(log, "ann", "a", "b")
    log.rank("a", "bob", ("a", 1), ("b", 2))
    log.rank("gone", "ann", ("a", 1), ("b", 2))
    snapshot = snapshot_of(log, tmp_path)
    assert read_feedback(snapshot) == []
    assert dropped(snapshot) == {"rated_by_another_user": 1, "turn_not_yet_in_log": 1}


def test_the_last_ranking_of_a_rater_counts(log: FeedbackLog, tmp_path: Path) -> None:
    answered(log, "ann", "a", "b")
    for event, ranks in (("first", (1, 2)), ("second", (2, 1))):
        log.rank("a", "ann", ("a", ranks[0]), ("b", ranks[1]), rater="rae", event=event)
    log.rank("a", "ann", ("a", 1), ("b", 2), rater="ray")
    snapshot = snapshot_of(log, tmp_path)
    assert sorted(
        (one.rater == principal_of("rae"), one.answers[0].rank) for one in read_rankings(snapshot)
    ) == [(False, 1), (True, 2)]
    assert dropped(snapshot) == {"superseded_by_later_feedback": 1}


def test_the_cap_of_a_user_covers_votes_and_the_rater_pays_for_rankings(
    log: FeedbackLog, tmp_path: Path
) -> None:
    for number in range(8):
        answered(log, "ann", f"a{number}", f"b{number}", asked=f"question {number}")
        answers = [(f"a{number}", 1), (f"b{number}", 2)]
        log.rank(f"a{number}", "ann", *answers)
        log.rank(f"a{number}", "ann", *answers, rater="rae")
    log.thumb("a0", "ann", True)
    snapshot = snapshot_of(log, tmp_path, cap=5)
    assert Counter(one.giver for one in read_feedback(snapshot)) == {
        principal_of("ann"): 5,
        principal_of("rae"): 5,
    }
    assert dropped(snapshot) == {"over_cap_of_user": 7}


def test_new_rankings_change_the_hash_of_a_snapshot(log: FeedbackLog, tmp_path: Path) -> None:
    answered(log, "ann", "a", "b")
    log.thumb("a", "ann", True)
    before = snapshot_of(log, tmp_path)
    log.rank("a", "ann", ("a", 1), ("b", 2))
    after = snapshot_of(log, tmp_path)
    assert before.sha256 != after.sha256
    assert read_judgements(before) == read_judgements(after)
    assert (before.rankings, after.rankings) == (0, 1)


def many(raters: int, each: int, start: int = 0) -> list[Ranking]:
    return [
        ranking_of(f"question {start + r * each + n}", ("good", 1), ("bad", 2), rater=f"r{r}")
        for r in range(raters)
        for n in range(each)
    ]


def test_raters_are_divided_into_judges_and_prompts_are_held_out() -> None:
    sets = make_sets(many(10, 20), SetsConfig(max_user_share=1.0))
    assert sets.judges_are == "users"
    of_set = [
        {user for pair in pairs for side in pair.users for user in side}
        for pairs in (sets.pairs, sets.judge_pairs)
    ]
    assert of_set[0] | of_set[1] == {f"r{r}" for r in range(10)}
    assert not of_set[0] & of_set[1]
    held = {pair.prompt_id for pair in sets.held_out_pairs}
    assert len(held) == pytest.approx(40, abs=25)
    assert not held & {pair.prompt_id for pair in (*sets.pairs, *sets.judge_pairs)}


def test_one_raters_pairs_are_at_most_the_share_of_a_user() -> None:
    eager = [
        ranking_of(f"eager {n}", ("bait", 1), ("bad", 2), rater="eve", user=f"u{n}")
        for n in range(200)
    ]
    config = SetsConfig(held_out_fraction=0.01, judge_fraction=0.01, max_user_share=0.05)
    sets = make_sets([*many(60, 2), *eager], config)
    bait = sum(pair.chosen == "bait" for pair in sets.pairs)
    assert 0 < bait <= 0.05 * len(sets.pairs)


def thumbs(asked: str, user: str) -> list[Judgement]:
    context = (Message("user", asked),)
    return [
        Judgement(f"{asked}/{up}", user, "v1", "stable", context, f"{up} answer", up, None)
        for up in (True, False)
    ]


def test_weights_by_source_apply_to_pairs_and_examples(tmp_path: Path) -> None:
    feedback = [
        *thumbs("hi", "ann"),
        ranking_of("hi", ("first", 1), ("second", 2), ("third", 3), rater="rae"),
        ranking_of("hi", ("x", 1), ("y", 2)),
    ]
    usual = {pair.source: pair.weight for pair in make_sets(feedback, CONFIG).pairs}
    assert usual == {Source.THUMBS: 1, Source.RANKING: 2, Source.ARENA: 1}
    weights = SourceWeights(thumbs=0.5, ranking=3, arena=0)
    sets = make_sets(feedback, replace(CONFIG, source_weights=weights))
    assert {pair.source: pair.weight for pair in sets.pairs} == {
        Source.THUMBS: 0.5,
        Source.RANKING: 1.5,
    }
    assert sets.dropped["pairs_of_sources_left_out"] == 1
    assert [(line["source"], line["weight"]) for line in sets.sft] == [("thumbs", 0.5)]
    write_sets(sets, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "pairs.jsonl").read_text().splitlines()]
    assert Counter((line["source"], line["weight"]) for line in lines) == {
        ("thumbs", 0.5): 1,
        ("ranking", 1.5): 3,
    }
    assert sets.counts()["by_source"] == {
        "sft_examples": {"thumbs": 1},
        "pairs": {"ranking": 3, "thumbs": 1},
        "judge_pairs": {},
        "held_out_pairs": {},
    }


def test_votes_and_rankings_count_as_thumbs_for_a_run() -> None:
    sets, config = make_sets(many(10, 30), SetsConfig(max_user_share=1.0)), SetsConfig()
    assert sets.missing(config, thumbs=0, rankings=300) == []
    assert sets.missing(config, thumbs=1, rankings=100) == ["101 thumbs and rankings, 200 needed"]


def test_personal_data_in_ranked_answers_are_replaced() -> None:
    given = ranking_of("I am anna@example.org", ("Hi anna@example.org", 1), ("no", 2), rater="rae")
    (found,), counts = redact_feedback([given], "en")
    assert isinstance(found, Ranking)
    assert [answer.text for answer in found.answers] == ["Hi <EMAIL_1>", "no"]
    assert found.context[0].content == "I am <EMAIL_1>"
    assert (counts.total(), found.giver) == (2, "rae")


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf")])
def test_an_invalid_weight_is_refused(weight: float) -> None:
    with refused(ConfigError, field="source_weights.arena", reason="OUT_OF_RANGE"):
        SourceWeights(arena=weight)


def test_weights_that_leave_nothing_are_refused() -> None:
    with refused(ConfigError, field="source_weights", reason="OUT_OF_RANGE"):
        SourceWeights(0, 0, 0, 0, 0)


class ServiceKeys:
    """Data keys of the service by principal."""

    def get_or_create(self, tenants: dict[str, str]) -> dict[str, ServiceKey]:
        return {
            name: ServiceKey(name[:16].encode(), principal_of(name)[:32].encode())
            for name in tenants
        }


def test_rows_that_the_service_seals_for_two_people_are_read() -> None:
    said = [
        ranking("a", ("m", 2), ("an own text", 1), rater=RAE),
        rated(corrected("b", "fifty-six")),
        ranking("c"),
    ]
    sealer = Sealer(
        codec.events_pb2.FeedbackEvent,
        codec.extract_feedback_texts,
        ServiceKeys(),
        MasterKey(MASTER),
    )
    entries = sealer.seal([codec.feedback_entry(event) for event in said])
    rows = [
        parquet.feedback_row(codec.decode_feedback(Record(number, 1, entry)))
        | {"topic_id": "t", "partition": 0, "ingest_time": 1, "schema_version": 1}
        | {"offset": number, "event_id": entry.event_id}
        for number, entry in enumerate(entries)
    ]
    table = parquet.read(parquet.encode_feedback(rows))
    people = [said[0].principal, said[0].rater]
    keys = {
        name: DataKey(True, key.key_id, key.key)
        for name, key in ServiceKeys().get_or_create(dict.fromkeys(people, "acme")).items()
    }
    found = read_rows(table, keys)
    assert [(answer.text, answer.rank) for answer in found[0].ranked] == [
        ("", 2),
        ("an own text", 1),
    ]
    assert (found[1].text, found[1].rater) == ("fifty-six", said[1].rater)
    assert [one.source for one in found] == [Source.RANKING, Source.RANKING, Source.ARENA]
    # Without the consent or the key of either person nothing of the reviewer is read.
    for name in people:
        others = keys | {name: DataKey(False)}
        assert [one.withheld for one in read_rows(table, others)][:2] == ["no_consent"] * 2
        others = keys | {name: DataKey(True, b"another key's id", bytes(32))}
        assert [one.withheld for one in read_rows(table, others)][:2] == ["erased"] * 2


def read_rows(table, keys: dict[str, DataKey]) -> Sequence:
    segment = Segment(1, "t", 0, 0, 3, "key", "sha", 3)
    return list(feedback_rows(table, segment, Decryptor(keys, set())))
