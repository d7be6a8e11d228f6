"""Personal data as the guardrail and the training sets recognise it, on the same labelled texts.

The guardrail replaces personal data in answers, training replaces them in all texts that users and
models wrote. Each difference is listed here with its reason.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from services.guardrail.detection import spans
from services.guardrail.detection.views import find_spans
from services.guardrail.verdict import Category
from training.corpus.pii.judgements import redact_feedback
from training.corpus.pii.kinds import Kind
from training.corpus.pii.redaction import find
from training.corpus.pii.regions import regions_of
from training.data.chat import Message
from training.data.feedback.judgements import Judgement

LABELLED = Path(__file__).parents[1] / "training" / "corpus" / "pii" / "labelled"
KIND_OF = {
    spans.EMAIL_REPLACEMENT: Kind.EMAIL,
    spans.PHONE_REPLACEMENT: Kind.PHONE,
    spans.CARD_REPLACEMENT: Kind.CARD,
    spans.IBAN_REPLACEMENT: Kind.IBAN,
    spans.SSN_REPLACEMENT: Kind.NATIONAL_ID,
}


class Found(NamedTuple):
    """Labelled spans of a kind: found by both, by one of the two, by none."""

    both: int = 0
    training: int = 0
    guardrail: int = 0
    none: int = 0


class Labelled(NamedTuple):
    """Labelled spans of a text, and those that each side replaces."""

    spans: tuple[tuple[int, int, Kind], ...]
    training: tuple[tuple[int, int, Kind], ...]
    guardrail: tuple[tuple[int, int, Kind | None], ...]


@pytest.fixture(scope="module")
def labelled() -> list[Labelled]:
    rows = [
        json.loads(line)
        for part in ("development", "held_out")
        for line in (LABELLED / f"{part}.jsonl").read_text().splitlines()
    ]
    return [
        Labelled(
            tuple((start, end, Kind(kind)) for start, end, kind in row["spans"]),
            tuple(
                (span.start, span.end, span.kind)
                for span in find(row["text"], row["language"], url=row["url"])
            ),
            tuple(guarded(row["text"], row["language"], row["url"])),
        )
        for row in rows
    ]


def guarded(text: str, language: str, url: str) -> Iterator[tuple[int, int, Kind | None]]:
    """Yield what the guardrail replaces where its country is that of the text."""
    regions = regions_of(language, url)
    for span in find_spans(text, regions[0] if regions else "US"):
        yield span.start, span.end, KIND_OF.get(span.replacement)


def test_labelled_data_are_found_by_both_or_the_difference_is_listed(
    labelled: list[Labelled],
) -> None:
    counts: dict[Kind, Counter[str]] = defaultdict(Counter)
    for row in labelled:
        training = {(start, end) for start, end, _ in row.training}
        for start, end, kind in row.spans:
            by_guard = any(first <= start and end <= last for first, last, _ in row.guardrail)
            by_training = (start, end) in training
            counts[kind][f"{by_training:d}{by_guard:d}"] += 1
    found = {kind: Found(c["11"], c["10"], c["01"], c["00"]) for kind, c in counts.items()}
    assert found == {
        # "jane (at) example (dot) com": no address that a click would reach, and common in prose.
        Kind.EMAIL: Found(both=145, training=10),
        Kind.CARD: Found(both=35),
        Kind.IBAN: Found(both=70),
        # The guardrail reads numbers by the numbering plan only, training also by words before
        # them; and the guardrail skips texts of more than 24 digits.
        Kind.PHONE: Found(both=192, training=33),
        # Of national identifiers the guardrail knows the social security number of the USA.
        Kind.NATIONAL_ID: Found(both=30, training=195),
        # Not recognised by the guardrail: answers about networks and banking would lose numbers.
        Kind.IP_ADDRESS: Found(training=65),
        Kind.BANK_ACCOUNT: Found(training=45),
    }


def test_look_alikes_that_only_one_replaces_are_listed(labelled: list[Labelled]) -> None:
    extra: Counter[str] = Counter()
    for row in labelled:
        for first, last, kind in row.guardrail:
            hit = [k for start, end, k in row.spans if start < last and first < end]
            if kind not in hit:
                name = kind or "secret"
                extra[f"{name} on {', '.join(hit)}" if hit else name] += 1
        assert set(row.training) <= set(row.spans)
    # An answer is replaced on weaker evidence than a text of which others learn to write.
    assert extra == {
        "card": 15,  # numbers with a right check digit in URLs, and an IMEI
        "card on iban": 3,  # within an IBAN, which is replaced as a whole
        "email": 5,  # user@host:path of rsync
        "phone": 1,  # a version number of four parts in an Italian text
        "secret": 5,  # a key of 16 bytes in a program; secrets are replaced in conversations only
    }


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        (
            "it is ghp_abcdefghijklmnopqrstuvwxyz0123456789.",
            "ghp_abcdefghijklmnopqrstuvwxyz0123456789",
        ),
        ("Password: hunter2222", "hunter2222"),
        ("-H 'Authorization: Bearer abcd1234efgh5678ijkl'", "abcd1234efgh5678ijkl"),
        ("postgres://app:s3cretpw@db/x", "s3cretpw"),
        ("api_key = 'k7Qz0PfW3mXv9TbL'", "k7Qz0PfW3mXv9TbL"),
        ("-----BEGIN PRIVATE KEY-----\nMIIE\n-----END PRIVATE KEY-----", ""),
        ("Your password is required.", None),
        ("password = $PASSWORD1", None),
        ("postgres://app:<password>@db/x", None),
        ("The token limit is 4096 tokens.", None),
    ],
)
def test_secrets_of_users_are_replaced_where_the_guardrail_does(
    text: str, secret: str | None
) -> None:
    by_guard = [span for span in find_spans(text, "US") if span.category is Category.SECRET]
    by_training = [text[s.start : s.end] for s in find(text, "en", {Kind.SECRET})]
    assert by_training == ([] if secret is None else [secret or text])
    assert bool(by_guard) == bool(by_training)


def test_secret_of_a_system_message_is_replaced_too() -> None:
    """Other values of system messages are the operator's own, and stay."""
    context = (
        Message("system", "Ask help@example.org. The password: hunter2222"),
        Message("user", "My mail is ann@example.org, what is hunter2222?"),
    )
    judgement = Judgement("m", "p", "v", "stable", context, "help@example.org", True, None)
    (redacted,), counts = redact_feedback([judgement], "en")
    assert [message.content for message in redacted.context] == [
        "Ask help@example.org. The password: <SECRET_1>",
        "My mail is <EMAIL_1>, what is hunter2222?",
    ]
    assert counts == {Kind.SECRET: 1, Kind.EMAIL: 1}
