"""Consent, erasure and keys over a real socket: ownership, limits, and outages."""

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY
from sqlalchemy import text
from thumbwheel.feedback.v1 import events_pb2, feedback_pb2

from services.chassis.errors import (
    InvalidArgumentError,
    NotFoundError,
    UnauthenticatedError,
    UnavailableError,
)
from services.chassis.identity import Caller
from services.contracts.identifiers import principal_of
from services.feedback.store.database import open_database
from tests.services.feedback.clients import BOB, Client, running
from tests.services.feedback.opened import opened
from tests.services.feedback.samples import ADA, KEY, correction, name, thumb, turn

ME, OTHER = principal_of(KEY, ADA), principal_of(KEY, BOB)


async def consent(client: Client, caller: Caller = ADA) -> feedback_pb2.Consent:
    return (
        await client.call("GetPrincipalConsent", feedback_pb2.GetPrincipalConsentRequest(), caller)
    ).consent


async def allow(client: Client, training: bool, caller: Caller = ADA) -> feedback_pb2.Consent:
    request = feedback_pb2.SetPrincipalConsentRequest(training=training)
    return (await client.call("SetPrincipalConsent", request, caller)).consent


async def erase(client: Client, caller: Caller = ADA) -> feedback_pb2.Erasure:
    return (
        await client.call("ErasePrincipal", feedback_pb2.ErasePrincipalRequest(), caller)
    ).erasure


async def keys(client: Client, *principals: str) -> dict[str, feedback_pb2.DataKey]:
    request = feedback_pb2.GetDataKeysRequest(principals=principals)
    return dict((await client.call("GetDataKeys", request, None)).keys)


async def erasures(client: Client, after: int = 0) -> list[feedback_pb2.ErasedPrincipal]:
    request = feedback_pb2.ListErasuresRequest(after_number=after)
    return list((await client.call("ListErasures", request, None)).erasures)


async def test_consent_is_the_callers_own_and_the_default_is_the_operators(tmp_path: Path) -> None:
    async with running(tmp_path, training_consent_default=False) as client:
        before = await consent(client)
        assert (before.training, before.HasField("update_time")) == (False, False)
        said = await allow(client, True)
        assert said.training
        assert said.update_time.seconds > 1_600_000_000
        assert await consent(client) == said
        assert not (await consent(client, BOB)).training


async def test_a_key_is_returned_until_consent_is_withdrawn(tmp_path: Path) -> None:
    async with running(tmp_path) as client:
        await client.record(correction("a", "only for whom I trust"))
        (row,) = await client.rows(feedback_pb2.STREAM_FEEDBACK, 1)
        assert row["correction"] == ""
        found = await keys(client, ME, OTHER)
        assert (found[ME].consent, len(found[ME].key), found[OTHER].consent, found[OTHER].key) == (
            True,
            32,
            True,
            b"",
        )
        event = events_pb2.FeedbackEvent(
            event_id=row["event_id"], principal=ME, sealed=row["sealed"]
        )
        assert opened(event, found[ME].key).correction.text == "only for whom I trust"
        assert row["sealed"][1:17] == found[ME].key_id
        await allow(client, False)
        assert (await keys(client, ME))[ME] == feedback_pb2.DataKey(consent=False)
        await allow(client, True)
        assert await keys(client, ME, OTHER) == found


async def test_an_erasure_shreds_at_once_and_is_visible_only_to_its_user(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as client:
        await client.record(thumb("a"))
        await client.record(thumb("b", up=False, caller=BOB), BOB)
        await client.append(turn(message="m"))
        await client.rows(feedback_pb2.STREAM_FEEDBACK, 2)
        before = await keys(client, ME, OTHER)
        count = _counted("erasures_total")
        erasure = await erase(client)
        assert erasure.shred_time.seconds > 1_600_000_000
        assert await client.thumbs("m") == {}
        assert await client.thumbs("m", caller=BOB) == {name("m"): False}
        assert await keys(client, ME, OTHER) == {
            ME: feedback_pb2.DataKey(consent=True),
            OTHER: before[OTHER],
        }
        assert await erase(client) == erasure
        request = feedback_pb2.GetPrincipalErasureRequest(erasure_id=erasure.erasure_id)
        assert (await client.call("GetPrincipalErasure", request)).erasure == erasure
        with pytest.raises(NotFoundError):
            await client.call("GetPrincipalErasure", request, BOB)
        (listed,) = await erasures(client)
        assert (listed.number, listed.principal, listed.erasure) == (1, ME, erasure)
        assert await erasures(client, after=1) == []
        assert _counted("erasures_total") - count == 1

        await client.record(thumb("c"))
        assert await client.thumbs("m") == {name("m"): True}
        assert (await keys(client, ME))[ME].key_id not in (b"", before[ME].key_id)


async def test_a_waiting_thumb_is_hidden_after_an_erasure(tmp_path: Path) -> None:
    async with running(tmp_path, flush_seconds=600) as client:
        await client.record(thumb("a"))
        await client.record(thumb("b", caller=BOB), BOB)
        await erase(client)
        assert await client.thumbs("m") == {}
        counts = await client.call("CountThumbs", feedback_pb2.CountThumbsRequest(), None)
        assert [count.up for count in counts.counts] == [1]


def _counted(metric: str) -> float:
    return REGISTRY.get_sample_value(f"thumbwheel_feedback_{metric}") or 0.0


WRONG: dict[str, tuple[str, Any, str]] = {
    "consent not said": (
        "SetPrincipalConsent",
        feedback_pb2.SetPrincipalConsentRequest(),
        "training",
    ),
    "no erasure id": (
        "GetPrincipalErasure",
        feedback_pb2.GetPrincipalErasureRequest(),
        "erasure_id",
    ),
    "erasure id": (
        "GetPrincipalErasure",
        feedback_pb2.GetPrincipalErasureRequest(erasure_id="1"),
        "erasure_id",
    ),
    "no principals": ("GetDataKeys", feedback_pb2.GetDataKeysRequest(), "principals"),
    "too many": (
        "GetDataKeys",
        feedback_pb2.GetDataKeysRequest(principals=[ME] * 1_001),
        "principals",
    ),
    "a principal": (
        "GetDataKeys",
        feedback_pb2.GetDataKeysRequest(principals=[ME, ME.upper()]),
        "principals[1]",
    ),
    "number": (
        "ListErasures",
        feedback_pb2.ListErasuresRequest(after_number=2**63),
        "after_number",
    ),
}


async def test_an_invalid_request_is_rejected_with_field_and_limit(tmp_path: Path) -> None:
    async with running(tmp_path) as client:
        for case, (method, request, field) in WRONG.items():
            with pytest.raises(InvalidArgumentError) as caught:
                await client.call(method, request)
            assert caught.value.field == field, case
            assert caught.value.limit, case
            assert ME not in caught.value.text, case


CALLS: dict[str, Callable[[], Any]] = {
    "GetPrincipalConsent": feedback_pb2.GetPrincipalConsentRequest,
    "SetPrincipalConsent": lambda: feedback_pb2.SetPrincipalConsentRequest(training=True),
    "ErasePrincipal": feedback_pb2.ErasePrincipalRequest,
    "GetPrincipalErasure": lambda: feedback_pb2.GetPrincipalErasureRequest(
        erasure_id=str(uuid.uuid4())
    ),
    "GetDataKeys": lambda: feedback_pb2.GetDataKeysRequest(principals=[ME]),
    "ListErasures": feedback_pb2.ListErasuresRequest,
    "GetThumbs": lambda: feedback_pb2.GetThumbsRequest(message_ids=[name("m")]),
    "CountThumbs": feedback_pb2.CountThumbsRequest,
    "GetExperiment": feedback_pb2.GetExperimentRequest,
    "GetVersionFeedback": lambda: feedback_pb2.GetVersionFeedbackRequest(model_versions=["v1"]),
    "RecordFeedback": lambda: feedback_pb2.RecordFeedbackRequest(event=thumb("a")),
}
OF_A_USER = ("GetPrincipalConsent", "SetPrincipalConsent", "ErasePrincipal", "GetPrincipalErasure")


async def test_calls_without_a_user_are_rejected(tmp_path: Path) -> None:
    async with running(tmp_path) as client:
        for method in OF_A_USER:
            with pytest.raises(UnauthenticatedError):
                await client.call(method, CALLS[method](), None)


async def test_without_the_database_every_call_is_unavailable(tmp_path: Path) -> None:
    async with running(tmp_path, flush_seconds=600) as client:
        engine = open_database(f"sqlite:///{tmp_path}/ledger.db")
        for table in ("data_keys", "consents", "erasures", "thumbs", "exposures", "answers"):
            with engine.begin() as connection:
                connection.execute(text(f"ALTER TABLE {table} RENAME TO away_{table}"))
        engine.dispose()
        for method, request in CALLS.items():
            with pytest.raises(UnavailableError) as caught:
                await client.call(method, request())
            assert caught.value.reason == "FEEDBACK_LEDGER_UNAVAILABLE", method
        engine = open_database(f"sqlite:///{tmp_path}/ledger.db")
        for table in ("data_keys", "consents", "erasures", "thumbs", "exposures", "answers"):
            with engine.begin() as connection:
                connection.execute(text(f"ALTER TABLE away_{table} RENAME TO {table}"))
        engine.dispose()
        await client.record(thumb("a"))


async def test_a_thousand_principals_are_answered_in_one_call(tmp_path: Path) -> None:
    async with running(tmp_path) as client:
        await client.record(thumb("a"))
        names = [f"{number:064x}" for number in range(999)]
        found = await keys(client, ME, *names)
        assert len(found) == 1_000
        assert [principal for principal, key in found.items() if key.key] == [ME]
