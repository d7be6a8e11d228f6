"""Sealed entries: no text outside `sealed`, other fields unchanged, and correct unsealing."""

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidTag
from thumbwheel.feedback.v1 import events_pb2

from services.contracts.feedback import Correction, RankedAnswer, Ranking, Thumb
from services.feedback import wire as codec
from services.feedback.lake import parquet
from services.feedback.principals.sealing import (
    DataKey,
    MasterKey,
    MasterKeyError,
    Sealer,
    key_id_of,
    key_ids_of,
)
from services.feedback.spool.log import Entry, Record, frame_bytes
from tests.services.feedback.opened import opened, rated_texts
from tests.services.feedback.samples import (
    MASTER,
    RAE,
    correction,
    erased,
    name,
    ranking,
    rated,
    retraction,
    sampled,
    thumb,
    turn,
)

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "sealed_v1.json").read_text())
# Golden files never change; turns with a sample have a separate file.
GOLDEN["events"] |= json.loads(
    (Path(__file__).parents[1] / "golden" / "sealed_v2.json").read_text()
)["events"]
KEY = DataKey(bytes.fromhex(GOLDEN["key_id"]), bytes.fromhex(GOLDEN["key"]))


class OneKey:
    """Fake keys with a single key and a counter of lookups."""

    def __init__(self) -> None:
        self.asked: list[dict[str, str]] = []

    def get_or_create(self, tenants: Mapping[str, str]) -> dict[str, DataKey]:
        self.asked.append(dict(tenants))
        return dict.fromkeys(tenants, KEY)


class KeysByName:
    """Fake keys, one for each principal."""

    def get_or_create(self, tenants: Mapping[str, str]) -> dict[str, DataKey]:
        return {name: KeysByName.key(name) for name in tenants}

    @staticmethod
    def key(principal: str) -> DataKey:
        return DataKey(principal[:16].encode(), principal[:32].encode())


def feedback_sealer(keys: OneKey, random_bytes: Any = bytes) -> Sealer[events_pb2.FeedbackEvent]:
    return Sealer(
        events_pb2.FeedbackEvent,
        codec.extract_feedback_texts,
        keys,
        MasterKey(MASTER),
        random_bytes,
    )


def turn_sealer(keys: OneKey, random_bytes: Any = bytes) -> Sealer[events_pb2.TurnEvent]:
    return Sealer(
        events_pb2.TurnEvent, codec.extract_turn_texts, keys, MasterKey(MASTER), random_bytes
    )


def loud(request: str = "golden") -> events_pb2.FeedbackEvent:
    event = thumb(request, up=False)
    event.thumb.reasons.extend(["wrong", "too long"])
    event.thumb.comment = "Stimmt nicht: 7 × 8 = 56 😀"
    return event


SAID: dict[str, events_pb2.FeedbackEvent | events_pb2.TurnEvent] = {
    "thumb": loud(),
    "silent": thumb("golden"),
    "correction": correction("golden", "fifty-six"),
    "retraction": retraction("golden"),
    "turn": turn("fifty-four"),
    "erased": erased(event_id=name("m/1")),
    "sampled": sampled("fifty-four"),
}


def sealed_entry(said: events_pb2.FeedbackEvent | events_pb2.TurnEvent) -> Entry:
    """Return an entry sealed with a nonce of zeros."""
    if isinstance(said, events_pb2.TurnEvent):
        (entry,) = turn_sealer(OneKey()).seal([codec.turn_entry(said)])
    else:
        (entry,) = feedback_sealer(OneKey()).seal([codec.feedback_entry(said)])
    return entry


@pytest.mark.parametrize("kind", SAID)
def test_the_bytes_written_today_are_those_of_the_golden_file(kind: str) -> None:
    assert sealed_entry(SAID[kind]).payload == base64.b64decode(GOLDEN["events"][kind])


@pytest.mark.parametrize("kind", SAID)
def test_golden_bytes_unseal_to_the_original_texts(kind: str) -> None:
    event = type(SAID[kind]).FromString(base64.b64decode(GOLDEN["events"][kind]))
    assert event.sealed.startswith(b"\x01" + KEY.key_id)
    assert opened(event, KEY.key) == SAID[kind]


@pytest.mark.parametrize(
    "text", ["Stimmt nicht", "too long", "fifty-six", "fifty-four", "what is it?", "wat is it"]
)
def test_no_text_stays_outside_sealed(text: str) -> None:
    said = [one.SerializeToString() for one in SAID.values()]
    sealed = [sealed_entry(one) for one in SAID.values()]
    assert any(text.encode() in one for one in said)
    assert not any(text.encode() in b"".join((one.payload, one.fingerprint)) for one in sealed)


def test_fields_for_the_sink_stay_outside_sealed() -> None:
    event = codec.decode_feedback(Record(0, 0, sealed_entry(loud())))
    assert (event.value, key_id_of(event.sealed)) == (Thumb(up=False), KEY.key_id)
    assert codec.decode_feedback(
        Record(0, 0, sealed_entry(SAID["correction"]))
    ).value == Correction("")
    shown = codec.decode_turn(Record(0, 0, sealed_entry(SAID["turn"])))
    assert (shown.context, shown.original_text, shown.answer) == ((), "", "")
    assert (shown.model_version, shown.completion_tokens, shown.finish_us) == (
        "v1",
        3,
        2_000_000_000,
    )


def test_no_token_and_no_log_prob_stays_outside_sealed() -> None:
    inside = SAID["sampled"].sample.SerializeToString()
    payload = sealed_entry(SAID["sampled"]).payload
    assert inside in SAID["sampled"].SerializeToString()
    assert inside not in payload
    assert (
        len(payload) == len(sealed_entry(SAID["turn"]).payload) + len(inside) + 3
    )  # its tag of two bytes, and its length
    shown = codec.decode_turn(Record(0, 0, sealed_entry(SAID["sampled"])))
    assert (shown.sample, shown.unknown_bytes) == (None, b"")
    row = parquet.turn_row(shown)
    assert not any("sample" in name or "token_ids" in name or "log_prob" in name for name in row)


def test_bytes_moved_to_another_event_do_not_unseal() -> None:
    first, second = (
        events_pb2.FeedbackEvent.FromString(sealed_entry(loud(request)).payload) for request in "ab"
    )
    second.sealed = first.sealed
    with pytest.raises(InvalidTag):
        opened(second, KEY.key)


def test_texts_of_a_reviewer_open_with_both_keys_only() -> None:
    sealer = Sealer(
        events_pb2.FeedbackEvent, codec.extract_feedback_texts, KeysByName(), MasterKey(MASTER)
    )
    said = [
        rated(correction("a", "fifty-six")),
        ranking("b", ("m", 2), ("a longer answer", 1), rater=RAE),
    ]
    texts = []
    for entry in sealer.seal([codec.feedback_entry(one) for one in said]):
        event = events_pb2.FeedbackEvent.FromString(entry.payload)
        user, rater = KeysByName.key(event.principal), KeysByName.key(event.rater)
        assert key_ids_of(event.sealed) == (user.key_id, rater.key_id)
        assert b"fifty" not in entry.payload
        assert b"longer" not in entry.payload
        assert codec.decode_feedback(Record(0, 0, entry)).rater == event.rater
        texts.append(rated_texts(event, user.key, rater.key))
        for keys in ((user.key, user.key), (rater.key, rater.key), (rater.key, user.key)):
            with pytest.raises(InvalidTag):
                rated_texts(event, *keys)
        event.rater = event.principal
        with pytest.raises(InvalidTag):
            rated_texts(event, user.key, rater.key)
    assert texts[0].correction.text == "fifty-six"
    assert [answer.text for answer in texts[1].ranking.answers] == ["", "a longer answer"]


def test_a_ranking_of_stored_answers_has_no_text() -> None:
    said = ranking("a")
    (entry,) = feedback_sealer(OneKey()).seal([codec.feedback_entry(said)])
    event = events_pb2.FeedbackEvent.FromString(entry.payload)
    assert opened(event, KEY.key) == said
    assert codec.decode_feedback(Record(0, 0, entry)).value == Ranking(
        (RankedAnswer(1, name("m"), "", "v1"), RankedAnswer(2, name("n"), "", "v2")), "arena"
    )


def test_a_group_reads_keys_once_and_never_reuses_a_nonce() -> None:
    keys, nonces = OneKey(), iter(range(1, 9))
    entries = feedback_sealer(keys, lambda size: next(nonces).to_bytes(size, "big")).seal(
        [codec.feedback_entry(loud(request)) for request in "ab"]
    )
    assert keys.asked == [{loud().principal: "acme"}]
    assert len({codec.decode_feedback(Record(0, 0, entry)).sealed[17:29] for entry in entries}) == 2


@pytest.mark.parametrize("kind", SAID)
def test_the_reserved_space_is_sufficient(kind: str) -> None:
    said, keys = SAID[kind], OneKey()
    plain = (
        codec.turn_entry(said)
        if isinstance(said, events_pb2.TurnEvent)
        else codec.feedback_entry(said)
    )
    assert (
        frame_bytes(sealed_entry(said))
        <= frame_bytes(plain) + feedback_sealer(keys).max_overhead_bytes
    )


def test_the_longest_texts_fit_into_the_reserved_space() -> None:
    said = [
        turn("x" * 1_900_000),
        correction("a", "ü" * 8_192),
        ranking("b", *((f" {'ü' * 32_000}", 1) for _ in range(6)), rater=RAE),
    ]
    plain_entries = (codec.turn_entry(said[0]), *map(codec.feedback_entry, said[1:]))
    for one, plain in zip(said, plain_entries, strict=True):
        assert (
            frame_bytes(sealed_entry(one))
            <= frame_bytes(plain) + feedback_sealer(OneKey()).max_overhead_bytes
        )


def test_a_fingerprint_is_no_plain_hash_and_depends_on_the_master_key() -> None:
    plain = codec.feedback_entry(loud()).fingerprint
    keyed = feedback_sealer(OneKey()).fingerprint(plain)
    assert keyed != plain
    assert len(keyed) == len(plain)
    assert MasterKey("0" * 64).fingerprint(plain) != keyed


def test_keys_are_hidden_when_printed() -> None:
    assert KEY.key.hex() not in repr(KEY)
    assert repr(KEY.key) not in repr(KEY)


PRINCIPAL, PLAIN_KEY = "a" * 64, bytes(range(32))
# Wrapped under a nonce of zeros; the value never changes.
WRAPPED = bytes.fromhex(
    "000000000000000000000000c377d15633a084329db2824dc455c1876ec95da4092e932e229b8784ec678c24"
    "35dc070f3b268490d1c0802df254c349"
)
FINGERPRINT = bytes.fromhex("c905030bd8bf491f5159c254cfed688c1999e5016f3b41b13b0a43d39c401025")


def test_keys_wrapped_by_earlier_versions_unwrap() -> None:
    master = MasterKey(MASTER, bytes)
    assert master.unwrap(WRAPPED, "acme", PRINCIPAL) == PLAIN_KEY
    assert master.wrap(PLAIN_KEY, "acme", PRINCIPAL) == WRAPPED
    assert master.fingerprint(bytes(32)) == FINGERPRINT


def test_wrapping_is_randomised() -> None:
    master = MasterKey(MASTER)
    assert master.wrap(PLAIN_KEY, "acme", PRINCIPAL) != master.wrap(PLAIN_KEY, "acme", PRINCIPAL)
    assert master.unwrap(master.wrap(PLAIN_KEY, "acme", PRINCIPAL), "acme", PRINCIPAL) == PLAIN_KEY


@pytest.mark.parametrize(
    ("wrapped", "tenant", "principal"),
    [
        (WRAPPED, "other", PRINCIPAL),
        (WRAPPED, "acme", "b" * 64),
        (WRAPPED[:-1] + b"\0", "acme", PRINCIPAL),
        (WRAPPED[:30], "acme", PRINCIPAL),
    ],
)
def test_foreign_or_damaged_keys_do_not_unwrap(wrapped: bytes, tenant: str, principal: str) -> None:
    with pytest.raises(MasterKeyError):
        MasterKey(MASTER).unwrap(wrapped, tenant, principal)


def test_no_tenant_name_yields_the_fingerprint_key() -> None:
    master = MasterKey(MASTER, bytes)
    assert (
        len(
            {
                master.wrap(PLAIN_KEY, tenant, PRINCIPAL)
                for tenant in ("", "acme", "thumbwheel.feedback.fingerprints")
            }
        )
        == 3
    )
