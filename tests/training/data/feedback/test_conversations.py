"""Sets of long and branched conversations, cut answers and corrections; properties of all sets."""

import json
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.training.feedback_log import FeedbackLog, principal_of, uid
from training.data.chat import Message
from training.data.feedback.catalogue import Directory, Segment
from training.data.feedback.division import is_held_out
from training.data.feedback.events import Feedback, Turn
from training.data.feedback.judgements import Judgement, judge
from training.data.feedback.pairs import pair_line
from training.data.feedback.rows import DataKey, Decryptor, feedback_rows, turn_rows
from training.data.feedback.sets import SetsConfig, TrainingSets, make_sets, write_sets
from training.data.feedback.snapshot import SnapshotConfig, read_judgements, take_snapshot
from training.data.feedback.texts import opening_key

# Without a judge or a cap on users, so that each set is the whole of the training side.
ALL = SetsConfig(judge_fraction=0.001, max_user_share=1.0)


def conversation(turns: int, opening: str = "start", system: str = "") -> tuple[Message, ...]:
    """Return the context of the last of some turns, each message different."""
    context = [Message("system", system)] if system else []
    context.append(Message("user", opening))
    for turn in range(1, turns):
        context += [
            Message("assistant", f"answer {turn}\n\n- with a list"),
            Message("user", f"{turn}?"),
        ]
    return tuple(context)


def rated(
    context: tuple[Message, ...],
    answer: str,
    up: bool | None = None,
    correction: str | None = None,
    user: str = "ann",
    *,
    cut: bool = False,
) -> Judgement:
    name = f"{len(context)}/{context[-1].content}/{answer}/{user}"
    return Judgement(name, user, "v", "stable", context, answer, up, correction, cut=cut)


def openings(held_out: bool, number: int, system: str = "") -> list[str]:
    """Return openings of conversations on one side of the division."""
    named = (f"opening {n}" for n in range(1000))
    return [
        name
        for name in named
        if is_held_out(opening_key(conversation(1, name, system)), ALL.held_out_fraction)
        == held_out
    ][:number]


def messages_of(rows: Iterable[dict[str, Any]]) -> list[list[tuple[str, str]]]:
    return [[(m["role"], m["content"]) for m in row["messages"]] for row in rows]


@pytest.mark.parametrize("turns", [1, 2, 7, 40])
@pytest.mark.parametrize("held_out", [False, True])
def test_whole_context_is_kept_in_every_set(turns: int, held_out: bool, tmp_path: Path) -> None:
    system = "Answer as a pirate."
    context = conversation(turns, openings(held_out, 1, system)[0], system)
    wanted = [(message.role, message.content) for message in context]
    judgements = [
        rated(context, "good\n\n1. step", True),
        rated(context, "bad", False, "better\n\n    code()\n", user="bob"),
    ]
    write_sets(make_sets(judgements, ALL), tmp_path)
    names = (
        ("held_out_pairs", "held_out_prompts")
        if held_out
        else ("sft", "thumbs", "pairs", "prompts")
    )
    for path in tmp_path.glob("*.jsonl"):
        found = messages_of(map(json.loads, path.read_text().splitlines()))
        assert bool(found) == (path.stem in names), path
        assert all(messages == wanted for messages in found)


def test_line_breaks_and_indentation_of_answers_are_kept() -> None:
    """Answers were once written with single spaces, which destroys code, lists and poems."""
    context = conversation(1, openings(False, 1)[0])
    code, fixed = "def f():\n    return 1", "def f():\n    return 2"
    sets = make_sets([rated(context, f"{code}  \n", True), rated(context, "no", None, fixed)], ALL)
    assert {row["response"] for row in sets.sft} == {code, fixed}
    assert {(pair.chosen, pair.rejected) for pair in sets.pairs} == {(fixed, "no")}
    # Indentation distinguishes two answers, spaces at the ends of lines do not.
    other = rated(context, "def f():\nreturn 1", True, user="bob")
    same = rated(context, f"{code} ", False, user="eve")
    both = make_sets([rated(context, code, True), other, same], ALL)
    assert [row["response"] for row in both.sft] == [other.answer]
    assert both.dropped["answers_without_majority"] == 1


def test_branches_give_pairs_only_within_one_context() -> None:
    opening = openings(False, 1)[0]
    first, second = conversation(2, opening), conversation(3, opening)
    edited = (*first[:-1], Message("user", "an edited question"))
    sets = make_sets(
        [
            rated(first, "a1", True),
            rated(first, "a2", False),  # generated again
            rated(edited, "b1", False),
            rated(second, "c1", False),
            rated(second, "c2", True),
        ],
        ALL,
    )
    assert {(pair.chosen, pair.rejected) for pair in sets.pairs} == {("a1", "a2"), ("c2", "c1")}
    assert sets.dropped["prompt_without_opposite"] == 1


def test_all_turns_of_a_held_out_conversation_are_held_out() -> None:
    """A later turn contains the earlier ones; it was once divided apart from them."""
    for held_out in (True, False):
        judgements = [
            rated(conversation(turns, opening), f"answer {turns}", turns % 2 == 0)
            for opening in openings(held_out, 5)
            for turns in range(1, 12)
        ]
        sets = make_sets(judgements, ALL)
        assert len(sets.held_out_prompts) == (55 if held_out else 0)
        assert len(sets.prompts) == (0 if held_out else 55)


def test_anchor_is_never_held_out(tmp_path: Path) -> None:
    opening = openings(True, 1)[0]
    line = {"messages": [{"role": "user", "content": opening}], "chosen": "a", "rejected": "b"}
    (tmp_path / "anchors.jsonl").write_text(json.dumps(line) + "\n")
    judgements = [rated(conversation(1, opening), "c", True)]
    assert make_sets(judgements, ALL).held_out_prompts
    sets = make_sets(judgements, replace(ALL, anchors=tmp_path / "anchors.jsonl"))
    assert sets.held_out_prompts == []
    assert "c" in {row["response"] for row in sets.sft}


@pytest.mark.parametrize("finish", ["length", "cancelled", "failed", "a new reason"])
def test_cut_answer_trains_only_by_its_correction(finish: str, tmp_path: Path) -> None:
    store = tmp_path / "objects"
    log, opening = FeedbackLog(store), openings(False, 1)[0]
    for name, up in (("liked", True), ("disliked", False)):
        log.turn(name, "ann", opening, f"a {name} answer that", finish_reason=finish)
        log.thumb(name, "ann", up)
    log.correct("disliked", "ann", "A whole answer.")
    log.turn("done", "bob", opening, "A liked answer.")
    log.thumb("done", "bob", True)
    log.commit()
    snapshot = take_snapshot(log, Directory(store), SnapshotConfig(), tmp_path / "snapshots", "")
    assert snapshot.manifest.report["dropped"] == {"answer_incomplete": 2}
    sets = make_sets(read_judgements(snapshot), ALL)
    assert {row["response"] for row in sets.sft} == {"A whole answer.", "A liked answer."}
    assert {row["response"] for row in sets.thumbs} == {"A liked answer."}
    # Neither as a chosen nor as a rejected answer: the pair would prefer or avoid length.
    assert sets.pairs == []


def test_blank_correction_does_not_drop_the_thumb(tmp_path: Path) -> None:
    store = tmp_path / "objects"
    log = FeedbackLog(store)
    log.turn("a", "ann", "hi", "hello")
    log.thumb("a", "ann", True)
    log.correct("a", "ann", " \n")
    log.commit()
    snapshot = take_snapshot(log, Directory(store), SnapshotConfig(), tmp_path / "snapshots", "")
    assert snapshot.manifest.report["dropped"] == {"empty_text": 1}
    assert [j.up for j in read_judgements(snapshot)] == [True]


def test_last_correction_of_each_user_counts_in_its_context(tmp_path: Path) -> None:
    store, system = tmp_path / "objects", "Be brief."
    log, opening = FeedbackLog(store), openings(False, 1, system)[0]
    context = [(m.role, m.content) for m in conversation(3, opening, system)]
    for user in ("ann", "bob"):
        log.turn(f"of {user}", user, context, "a poor answer")
        log.correct(f"of {user}", user, f"first try of {user}", event=f"1 {user}")
        log.correct(f"of {user}", user, f"better,\n- {user}", event=f"2 {user}")
    log.turn("of eve", "eve", [*context[:-1], ("user", "another question")], "a poor answer")
    log.correct("of eve", "eve", "better, eve")
    log.commit()
    snapshot = take_snapshot(log, Directory(store), SnapshotConfig(), tmp_path / "snapshots", "")
    assert snapshot.manifest.report["dropped"] == {"superseded_by_later_feedback": 2}
    sets = make_sets(read_judgements(snapshot), ALL)
    found = {row["response"]: [m["content"] for m in row["messages"]] for row in sets.sft}
    asked = [content for _, content in context]
    assert found == {
        "better,\n- ann": asked,
        "better,\n- bob": asked,
        "better, eve": [*asked[:-1], "another question"],
    }
    assert {pair.rejected for pair in sets.pairs} == {"a poor answer"}
    assert len(sets.pairs) == 3


def test_examples_of_one_context_are_capped() -> None:
    context = conversation(4, openings(False, 1)[0])
    judgements = [rated(context, "no", False, f"better {n}", user=f"u{n % 4}") for n in range(30)]
    sets = make_sets(judgements, replace(ALL, max_pairs_per_prompt=8))
    assert len(sets.sft) == len(sets.pairs) == 8
    assert sets.dropped["sft_over_cap_of_prompt"] == 22
    assert sets.dropped["over_cap_of_prompt"] == 22
    assert make_sets(judgements[:8], ALL).dropped["sft_over_cap_of_prompt"] == 0


# Random logs.

USERS = tuple("abcdef")
SEGMENT = Segment(1, "t", 0, 0, 10**6, "o", "", 0)


@dataclass(frozen=True)
class Events:
    """Rows of both streams, and the users who consent."""

    feedback: list[dict[str, Any]]
    turns: list[dict[str, Any]]
    consent: dict[str, bool]

    def read(self, order: random.Random) -> tuple[list[Feedback], list[Turn]]:
        """Return the events as a snapshot reads them, in any order."""
        keys = {principal_of(user): DataKey(may) for user, may in self.consent.items()}
        decryptor = Decryptor(keys, ())
        read: list[Any] = []
        for rows, parse in ((self.feedback, feedback_rows), (self.turns, turn_rows)):
            shuffled = order.sample(rows, len(rows))
            table = pa.Table.from_pylist(shuffled) if rows else pa.table({})
            read.append(list(parse(table, SEGMENT, decryptor)))
        return read[0], read[1]


@st.composite
def logs(draw: st.DrawFn) -> Events:
    """Draw conversations with branches, and feedback on them; texts name their user."""
    seed, users = draw(st.integers(0, 2**32)), draw(st.integers(1, len(USERS)))
    rng = random.Random(seed)
    consent = {user: draw(st.booleans()) for user in USERS[:users]}
    feedback: list[dict[str, Any]] = []
    turns: list[dict[str, Any]] = []

    def row(event: str, user: str, message: str, **columns: Any) -> dict[str, Any]:
        return {
            "event_id": event,
            "principal": principal_of(user),
            "message_id": message,
            "offset": len(feedback) + len(turns),
            **columns,
        }

    for number in range(draw(st.integers(1, 12))):
        user = rng.choice(USERS[:users])
        # Some conversations begin alike for several users, others name their user.
        context = [("system", "Be kind.")] if rng.random() < 0.2 else []
        context.append(("user", rng.choice(("hello", "hi", f"mine, {user}:"))))
        for turn in range(rng.choice((1, 1, 2, 5, 40))):
            message = uid(f"{number} {turn}")
            finish = rng.choice(("stop", "stop", "stop", "length", "cancelled", "output_blocked"))
            answer = rng.choice(("yes", "no", f"for {user}:\n- {turn}", ""))
            columns = {
                "context": [{"role": role, "text": text} for role, text in context],
                "answer": answer,
                "finish_reason": finish,
                "erased": rng.random() < 0.05,
                "cached": rng.random() < 0.05,
            }
            turns.append(row(f"t{message}", user, message, **columns))
            for at in range(rng.choice((0, 1, 1, 2, 4))):
                kind = rng.choice(("thumb", "thumb", "correction", "retraction", "signal"))
                by = user if rng.random() < 0.9 else rng.choice(USERS[:users])
                said = {
                    "kind": kind,
                    "up": rng.random() < 0.5 if kind == "thumb" else None,
                    "correction": rng.choice((f"better,\n  {by}:", answer, " ")),
                    "retracts": rng.choice(("thumb", "correction")),
                }
                event = f"f{message}{at if rng.random() < 0.9 else 0}"
                feedback.append(row(event, by, message, **said))
            # An edit continues the same branch with another question.
            context += [("assistant", answer or "…"), ("user", f"{user}: and {rng.randrange(3)}?")]
    return Events(feedback, turns, consent)


@given(logs(), st.integers(0, 3))
@settings(max_examples=40, deadline=None)
def test_sets_of_random_conversations(events: Events, seed: int) -> None:
    config = SetsConfig(max_user_share=0.5, seed=seed)
    judgements, dropped = judge(*events.read(random.Random(1)), max_per_principal=9)
    sets = make_sets(judgements, config)

    # The order in which objects arrive does not matter.
    assert (judgements, dropped) == judge(*events.read(random.Random(2)), max_per_principal=9)

    # Every event is used once or dropped once with a reason.
    known = [row for row in events.feedback if row["kind"] != "signal"]
    used = sum((j.up is not None) + (j.correction is not None) for j in judgements)
    of_turns = Counter(d.event_id for d in dropped if d.event_id.startswith("t"))
    assert used + len(dropped) - of_turns.total() == len(known)
    assert set(of_turns.values()) <= {1}

    # Texts and names of users without consent are in no judgement and in no set.
    written = json.dumps([_texts(sets), [vars(j) for j in judgements]], default=vars)
    for user, consents in events.consent.items():
        if not consents:
            assert f"{user}:" not in written
            assert principal_of(user) not in written

    # No context of evaluation is trained on, not even as the beginning of a longer one.
    held_out = {_key(context) for context in sets.held_out_prompts}
    held_out |= {_key(pair.context) for pair in sets.held_out_pairs}
    for context in (*_trained(sets), *(pair.context for pair in sets.judge_pairs)):
        parts = {_key(context[:length]) for length in range(1, len(context) + 1)}
        assert not held_out & parts

    # Each thumb is in one of the three divisions, and each example comes from a judgement.
    asked = {_key(judgement.context) for judgement in judgements}
    assert asked == held_out | {_key(context) for context in sets.prompts}
    chosen = {
        (_key(j.context), t.strip()) for j in judgements for t in (j.answer, j.correction or "")
    }
    cut = {(_key(j.context), j.answer) for j in judgements if j.cut}
    liked = {(_key(j.context), j.answer) for j in judgements if not j.cut}
    for row in sets.sft:
        context = tuple(Message(**message) for message in row["messages"])
        assert (_key(context), row["response"]) in chosen
    for pair in (*sets.pairs, *sets.judge_pairs, *sets.held_out_pairs):
        assert (_key(pair.context), pair.rejected) not in cut - liked


def _key(context: Sequence[Message]) -> str:
    return json.dumps([(message.role, message.content) for message in context])


def _trained(sets: TrainingSets) -> list[tuple[Message, ...]]:
    rows = [tuple(Message(**m) for m in row["messages"]) for row in (*sets.sft, *sets.thumbs)]
    return [*rows, *(pair.context for pair in sets.pairs), *sets.prompts]


def _texts(sets: TrainingSets) -> list[Any]:
    pairs = (*sets.pairs, *sets.judge_pairs, *sets.held_out_pairs)
    prompts = (*sets.prompts, *sets.held_out_prompts)
    return [sets.sft, sets.thumbs, [pair_line(p) for p in pairs], [_key(p) for p in prompts]]
