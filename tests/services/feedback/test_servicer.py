"""FeedbackLogService over a real socket: responses, limits, and authorisation."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from prometheus_client import REGISTRY
from sqlalchemy import update
from thumbwheel.feedback.v1 import events_pb2, feedback_pb2

from services.chassis.errors import (
    AlreadyExistsError,
    FailedPreconditionError,
    InvalidArgumentError,
    PermissionDeniedError,
    ServiceError,
    UnauthenticatedError,
)
from services.chassis.identity import Caller
from services.feedback.spool.log import OffsetOutOfRangeError
from services.feedback.store.tables import partitions
from tests.services.feedback.clients import BOB, running
from tests.services.feedback.databases import open_sqlite
from tests.services.feedback.samples import (
    ADA,
    RAE,
    correction,
    erased,
    feedback,
    name,
    ranking,
    rated,
    retraction,
    thumb,
    turn,
)
from tests.support.errors import refused


async def test_feedback_is_acknowledged_seen_at_once_counted_and_sunk(tmp_path: Path) -> None:
    async with running(tmp_path) as client:
        answer = await client.record(thumb("a"))
        assert answer.durability == feedback_pb2.DURABILITY_SPOOL
        assert await client.thumbs("m", "n") == {name("m"): True}
        await client.record(thumb("b", up=False))
        await client.record(correction("c", "42"))
        counts = await client.call("CountThumbs", feedback_pb2.CountThumbsRequest(), caller=None)
        assert [(c.model_version, c.arm, c.up, c.down) for c in counts.counts] == [
            ("v1", "stable", 0, 1)
        ]
        rows = await client.rows(feedback_pb2.STREAM_FEEDBACK, 3)
        assert [row["kind"] for row in rows] == ["thumb", "thumb", "correction"]
        assert await client.thumbs("m") == {name("m"): False}


async def test_thumbs_are_the_callers_own(tmp_path: Path) -> None:
    async with running(tmp_path, flush_seconds=60) as client:
        await client.record(thumb("a"))
        await client.record(thumb("b", up=False, caller=BOB), caller=BOB)
        assert await client.thumbs("m") == {name("m"): True}
        assert await client.thumbs("m", caller=BOB) == {name("m"): False}
        await client.record(retraction("c"))
        assert await client.thumbs("m") == {}


async def test_a_repeated_event_has_the_same_response_and_one_row(tmp_path: Path) -> None:
    async with running(tmp_path) as client:
        first = await client.record(thumb("a", at=1_000))
        assert await client.record(thumb("a", at=2_000)) == first
        await client.rows(feedback_pb2.STREAM_FEEDBACK, 1)
        assert await client.record(thumb("a", at=3_000)) == first
        for up in (False, False):
            with pytest.raises(AlreadyExistsError) as caught:
                await client.record(thumb("a", up=up))
        assert caught.value.reason == "IDEMPOTENCY_MISMATCH"
        await client.record(thumb("b", message="n"))
        rows = await client.rows(feedback_pb2.STREAM_FEEDBACK, 2)
        assert [(row["event_id"], row["up"]) for row in rows] == [
            (thumb("a").event_id, True),
            (thumb("b").event_id, True),
        ]


async def test_five_concurrent_calls_with_one_event_store_it_once(tmp_path: Path) -> None:
    async with running(tmp_path) as client:
        await asyncio.gather(*(client.record(thumb("a")) for _ in range(5)))
        await client.record(thumb("b"))
        rows = await client.rows(feedback_pb2.STREAM_FEEDBACK, 2)
        assert [row["offset"] for row in rows] == [0, 1]


async def test_turns_and_retracting_turns_become_rows_once(tmp_path: Path) -> None:
    async with running(tmp_path) as client:
        await client.append(turn(message="m"), turn(message="n"))
        await client.append(turn(message="n"), erased("m"))
        rows = await client.rows(feedback_pb2.STREAM_TURNS, 3)
        assert [(row["message_id"], row["erased"]) for row in rows] == [
            (name("m"), False),
            (name("n"), False),
            (name("m"), True),
        ]


async def test_segments_are_listed_after_a_sequence(tmp_path: Path) -> None:
    async with running(tmp_path) as client:
        for number, request in enumerate("ab", start=1):
            await client.record(thumb(request))
            await client.rows(feedback_pb2.STREAM_FEEDBACK, number)
        request = feedback_pb2.ListSegmentsRequest(
            stream=feedback_pb2.STREAM_FEEDBACK, after_sequence=1
        )
        (segment,) = (await client.call("ListSegments", request)).segments
        assert (segment.sequence, segment.start_offset, segment.end_offset, segment.rows) == (
            2,
            1,
            2,
            1,
        )
        assert segment.commit_time.seconds > 1_600_000_000


async def test_a_compacted_segment_is_listed_whole_after_any_inner_sequence(
    tmp_path: Path,
) -> None:
    async with running(tmp_path, compaction_minutes=0.001, compaction_settle_minutes=0) as client:
        for number, request in enumerate("ab", start=1):
            await client.record(thumb(request))
            await client.rows(feedback_pb2.STREAM_FEEDBACK, number)
        request = feedback_pb2.ListSegmentsRequest(
            stream=feedback_pb2.STREAM_FEEDBACK, after_sequence=1
        )
        async with asyncio.timeout(30):
            while (
                segment := (await client.call("ListSegments", request)).segments[0]
            ).first_sequence != 1:
                await asyncio.sleep(0.02)
        assert (segment.sequence, segment.topic_id, segment.end_offset, segment.rows) == (
            2,
            "",
            0,
            2,
        )
        ids = [row["event_id"] for row in await client.rows(feedback_pb2.STREAM_FEEDBACK, 2)]
        assert ids == [thumb("a").event_id, thumb("b").event_id]


async def test_an_orphan_object_is_never_listed(tmp_path: Path) -> None:
    async with running(tmp_path) as client:
        await client.record(thumb("a"))
        await client.rows(feedback_pb2.STREAM_FEEDBACK, 1)
        (path,) = (tmp_path / "objects").rglob("*.parquet")
        (
            path.parent / "00000000000000000001-00000000000000000002-000000000000.parquet"
        ).write_bytes(path.read_bytes())
        assert len(await client.rows(feedback_pb2.STREAM_FEEDBACK, 1)) == 1


async def test_waiting_events_are_sunk_at_shutdown(tmp_path: Path) -> None:
    async with running(tmp_path, flush_seconds=600) as client:
        await client.record(thumb("a"))
    assert len(list((tmp_path / "objects").rglob("*.parquet"))) == 1


def _reasons(count: int, length: int) -> events_pb2.FeedbackEvent:
    event = thumb("a")
    event.thumb.reasons.extend(["x" * length] * count)
    return event


def _with(**values: Any) -> events_pb2.FeedbackEvent:
    event = thumb("a")
    for field, value in values.items():
        setattr(event, field, value)
    return event


def _comment(length: int) -> events_pb2.FeedbackEvent:
    event = thumb("a")
    event.thumb.comment = "ü" * length
    return event


def _untimed() -> events_pb2.FeedbackEvent:
    event = thumb("a")
    event.ClearField("accept_time")
    return event


def _sealed() -> events_pb2.FeedbackEvent:
    event = correction("a", "x")
    event.correction.ClearField("text")
    event.sealed = b"\x01" + bytes(60)
    return event


def _own_rater() -> events_pb2.FeedbackEvent:
    event = thumb("a")
    event.rater = event.principal
    return event


def _both(text: str) -> events_pb2.FeedbackEvent:
    event = ranking("a")
    event.ranking.answers[1].text = text
    return event


def _unsourced() -> events_pb2.FeedbackEvent:
    event = ranking("a")
    event.ranking.ClearField("source")
    return event


def _copied() -> events_pb2.FeedbackEvent:
    event = feedback("a")
    event.signal.kind = "copied"
    return event


def _version_of_an_answer() -> events_pb2.FeedbackEvent:
    event = ranking("a")
    event.ranking.answers[1].model_version = "v\0"
    return event


def _rater(text: str) -> events_pb2.FeedbackEvent:
    event = ranking("a")
    event.rater = text
    return event


REFUSED: dict[str, tuple[events_pb2.FeedbackEvent, str]] = {
    "nothing": (events_pb2.FeedbackEvent(), "event.event_id"),
    "no value": (feedback("a"), "event.value"),
    "event id": (_with(event_id="1"), "event.event_id"),
    "upper case id": (_with(message_id=name("m").upper()), "event.message_id"),
    "message id": (_with(message_id="../../etc"), "event.message_id"),
    "conversation id": (_with(conversation_id=""), "event.conversation_id"),
    "tenant": (_with(tenant=""), "event.tenant"),
    "principal": (_with(principal="ada"), "event.principal"),
    "version": (_with(model_version="v" * 129), "event.model_version"),
    "arm": (_with(arm="a" * 129), "event.arm"),
    "no time": (_untimed(), "event.accept_time"),
    "too many reasons": (_reasons(9, 1), "event.thumb.reasons"),
    "long reason": (_reasons(1, 65), "event.thumb.reasons"),
    "long comment": (_comment(2_001), "event.thumb.comment"),
    "empty correction": (correction("a", ""), "event.correction.text"),
    "long correction": (correction("a", "x" * 8_193), "event.correction.text"),
    "retraction": (retraction("a", kind="vote"), "event.retraction.kind"),
    "sealed by somebody else": (_sealed(), "event.sealed"),
    "rater": (_rater("rae"), "event.rater"),
    "user as rater": (_own_rater(), "event.rater"),
    "signal of a rater": (rated(_copied()), "event.rater"),
    "one answer": (ranking("a", ("m", 1)), "event.ranking.answers"),
    "seven answers": (ranking("a", *((f"m{n}", 1) for n in range(7))), "event.ranking.answers"),
    "one answer twice": (ranking("a", ("m", 1), ("m", 2)), "event.ranking.answers"),
    "rank 0": (ranking("a", ("m", 0), ("n", 1)), "event.ranking.answers.rank"),
    "no best answer": (ranking("a", ("m", 2), ("n", 3)), "event.ranking.answers.rank"),
    "gap": (ranking("a", ("m", 1), ("n", 1), ("o", 3)), "event.ranking.answers.rank"),
    "id and text": (_both("an own text"), "event.ranking.answers[1].text"),
    "neither id nor text": (ranking("a", ("m", 1), (" ", 2)), "event.ranking.answers[1].text"),
    "long text": (
        ranking("a", ("m", 1), (f"a {'x' * 32_768}", 2)),
        "event.ranking.answers[1].text",
    ),
    "version of an answer": (_version_of_an_answer(), "event.ranking.answers[1].model_version"),
    "no source": (_unsourced(), "event.ranking.source"),
}


def _after(sequence: int) -> feedback_pb2.ListSegmentsRequest:
    return feedback_pb2.ListSegmentsRequest(
        stream=feedback_pb2.STREAM_FEEDBACK, after_sequence=sequence
    )


def _many(count: int) -> list[events_pb2.TurnEvent]:
    return [turn(message=f"m{number}") for number in range(count)]


def _bad_turn() -> events_pb2.TurnEvent:
    event = turn()
    event.user_message_id = "x"
    return event


def _half_erased() -> events_pb2.TurnEvent:
    event = erased()
    event.answer = "still here"
    return event


def _sealed_turn() -> events_pb2.TurnEvent:
    event = erased()
    event.sealed = b"\x01" + bytes(60)
    return event


TURNS_REFUSED: dict[str, tuple[Callable[[], list[events_pb2.TurnEvent]], str]] = {
    "none": (list, "turns"),
    "too many": (lambda: _many(501), "turns"),
    "too large": (lambda: [turn("x" * (2 * 1024 * 1024))], "turns"),
    "one is wrong": (lambda: [turn(), _bad_turn()], "turns[1].user_message_id"),
    "erased with text": (lambda: [_half_erased()], "turns[0].erased"),
    "sealed by somebody else": (lambda: [_sealed_turn()], "turns[0].sealed"),
}


async def test_an_invalid_request_is_rejected_with_field_and_limit_and_not_stored(
    tmp_path: Path,
) -> None:
    async with running(tmp_path, flush_seconds=600) as client:
        calls = [(case, client.record(event), field) for case, (event, field) in REFUSED.items()]
        calls += [
            (case, client.append(*turns()), field) for case, (turns, field) in TURNS_REFUSED.items()
        ]
        calls += [
            ("no ids", client.thumbs(), "message_ids"),
            ("too many ids", client.thumbs(*map(str, range(1_001))), "message_ids"),
            (
                "stream",
                client.call("ListSegments", feedback_pb2.ListSegmentsRequest(stream=9)),
                "stream",
            ),
            ("sequence", client.call("ListSegments", _after(2**63)), "after_sequence"),
        ]
        for case, call, field in calls:
            with pytest.raises(InvalidArgumentError) as caught:
                await call
            assert caught.value.field == field, case
            assert caught.value.limit, case
    assert list((tmp_path / "objects").rglob("*.parquet")) == []


@pytest.mark.parametrize(
    ("event", "caller", "kind"),
    [
        (thumb("a"), BOB, PermissionDeniedError),
        (thumb("a"), Caller("other", "ada"), PermissionDeniedError),
        (thumb("a"), None, UnauthenticatedError),
    ],
)
async def test_feedback_of_another_principal_is_rejected(
    tmp_path: Path, event: events_pb2.FeedbackEvent, caller: Caller | None, kind: type[ServiceError]
) -> None:
    async with running(tmp_path) as client:
        with pytest.raises(kind):
            await client.record(event, caller)
        assert await client.thumbs("m") == {}


async def test_feedback_of_a_reviewer_is_sent_by_the_reviewer_and_is_not_the_users(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as client:
        written = rated(correction("a", "42"))
        with pytest.raises(PermissionDeniedError) as caught:
            await client.record(written)
        assert caught.value.field == "event.rater"
        await client.record(written, RAE)
        await client.record(rated(thumb("b")), RAE)
        await client.record(ranking("c", ("m", 1), ("an own text", 2), rater=RAE), RAE)
        await client.record(ranking("d"))
        rows = await client.rows(feedback_pb2.STREAM_FEEDBACK, 4)
        assert [(row["kind"], bool(row["rater"])) for row in rows] == [
            ("correction", True),
            ("thumb", True),
            ("ranking", True),
            ("ranking", False),
        ]
        for caller in (ADA, RAE):
            assert await client.thumbs("m", "n", caller=caller) == {}
        request = feedback_pb2.GetThumbsRequest(message_ids=[name("m")])
        assert not (await client.call("GetThumbs", request)).words
        counts = await client.call("CountThumbs", feedback_pb2.CountThumbsRequest(), caller=None)
        assert list(counts.counts) == []


async def test_a_ranking_from_before_an_erasure_is_acknowledged_and_not_stored(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as client:
        await client.call("ErasePrincipal", feedback_pb2.ErasePrincipalRequest(), ADA)
        # Accepted in 1970.
        await client.record(ranking("a"))
        await client.record(rated(correction("b", "42")), RAE)
        late = ranking("c")
        late.accept_time.GetCurrentTime()
        await client.record(late)
        rows = await client.rows(feedback_pb2.STREAM_FEEDBACK, 1)
        assert [row["event_id"] for row in rows] == [late.event_id]


async def test_thumbs_need_a_caller(tmp_path: Path) -> None:
    async with running(tmp_path) as client:
        with pytest.raises(UnauthenticatedError):
            await client.thumbs("m", caller=None)


async def test_a_full_spool_is_reported_as_unavailable(tmp_path: Path) -> None:
    async with running(tmp_path, flush_seconds=600, max_spool_bytes=700) as client:
        await client.record(thumb("a"))
        with refused(ServiceError, reason="FEEDBACK_SPOOL_FULL") as caught:
            for request in "bc":
                await client.record(thumb(request, message=request))
        assert caught.value.code is grpc.StatusCode.UNAVAILABLE


async def test_a_permanent_sink_failure_ends_the_service(
    tmp_path: Path,
) -> None:
    with pytest.raises(ExceptionGroup) as caught:
        async with running(tmp_path) as client:
            engine = open_sqlite(tmp_path / "ledger.db")
            with engine.begin() as connection:
                connection.execute(update(partitions).values(end_offset=99))
            engine.dispose()
            await client.record(thumb("a"))
            await asyncio.sleep(30)
    assert isinstance(caught.value.exceptions[0], OffsetOutOfRangeError)


def _counted(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(f"thumbwheel_feedback_{name}", labels) or 0.0


async def test_acks_thumbs_and_rows_are_counted(tmp_path: Path) -> None:
    def counts() -> list[float]:
        return [
            _counted("acks_total", stream="feedback", outcome="new"),
            _counted("acks_total", stream="feedback", outcome="known"),
            _counted("thumbs_total", model_version="v1", value="down"),
            _counted("ack_seconds_count", stream="feedback"),
            _counted("rows_total", stream="feedback"),
        ]

    before = counts()
    async with running(tmp_path) as client:
        for _ in range(2):
            await client.record(thumb("a", up=False))
        await client.record(correction("b"))
    assert [after - earlier for after, earlier in zip(counts(), before, strict=True)] == [
        2,
        1,
        1,
        3,
        2,
    ]


async def test_an_experiment_reports_users_and_thumbs_also_to_prometheus(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as client:
        await client.append(turn(message="m"), turn(message="n"))
        await client.record(thumb("a", up=True))
        await client.rows(feedback_pb2.STREAM_TURNS, 2)
        answer = await client.call("GetExperiment", feedback_pb2.GetExperimentRequest())
        (arm,) = answer.arms
        assert (arm.model_version, arm.arm, arm.exposed_users) == ("v1", "candidate", 1)
        assert arm.first_exposure_time.seconds == 2_000
        assert (arm.up, arm.down) == (0, 0)  # the thumb was given under another arm
        assert (arm.up_rate_low, arm.up_rate_high) == (0, 1)
        later = feedback_pb2.GetExperimentRequest()
        later.since.FromSeconds(3_000)
        assert not (await client.call("GetExperiment", later)).arms


async def test_counts_of_versions_over_the_socket(tmp_path: Path) -> None:
    """Thumbs count at once; the rates follow with the commit of the turns."""
    async with running(tmp_path) as client:
        refused_turn = turn(message="m")
        refused_turn.guard_category = "email"
        await client.append(refused_turn, turn(message="n"))
        await client.record(thumb("a"))
        await client.rows(feedback_pb2.STREAM_TURNS, 2)
        request = feedback_pb2.GetVersionFeedbackRequest(model_versions=["v2", "v1"])
        none, found = (await client.call("GetVersionFeedback", request)).versions
        assert none == feedback_pb2.VersionFeedback(model_version="v2")
        assert (found.model_version, found.users_up, found.users_down) == ("v1", 1, 0)
        assert list(found.user_thumbs) == [
            feedback_pb2.UserThumbs(up=1, down=0, users=1, weight=1.0)
        ]
        (rate,) = [rate for rate in found.rates if rate.name == "refused"]
        assert rate == feedback_pb2.RateSums(
            name="refused",
            users=1,
            trials=2,
            events=1,
            trials_squared=4,
            events_squared=1,
            events_times_trials=2,
        )
        with pytest.raises(InvalidArgumentError) as caught:
            await client.call("GetVersionFeedback", feedback_pb2.GetVersionFeedbackRequest())
        assert (caught.value.field, caught.value.limit) == ("model_versions", "1 to 10")


async def test_turns_and_signals_without_consent_are_stored_without_signals(
    tmp_path: Path,
) -> None:
    """The gateway sends copies with consent only; the service checks consent as well."""
    async with running(tmp_path, training_consent_default=False) as client:
        copied = feedback("copied")
        copied.signal.kind = "copied"
        with pytest.raises(FailedPreconditionError) as caught:
            await client.record(copied)
        assert (caught.value.field, caught.value.reason) == ("event.signal", "CONSENT_REQUIRED")
        first = turn(message="m")
        first.parent_message_id = name("parent")
        await client.append(first)
        allow = feedback_pb2.SetPrincipalConsentRequest(training=True)
        await client.call("SetPrincipalConsent", allow)
        # A retry of session's outbox after the choice is no other content.
        await client.append(first)
        second = turn(message="n")
        second.parent_message_id = name("parent")
        await client.append(second)
        await client.record(copied)
        turns = await client.rows(feedback_pb2.STREAM_TURNS, 2)
        assert [row["parent_message_id"] for row in turns] == [None, name("parent")]
        rows = await client.rows(feedback_pb2.STREAM_FEEDBACK, 1)
        assert [(row["kind"], row["signal"]) for row in rows] == [("signal", "copied")]
        assert await client.thumbs("m", "n") == {}
        counts = await client.call("CountThumbs", feedback_pb2.CountThumbsRequest(users=True))
        assert not counts.counts
