"""Hold-back: no character of a secret or of personal data is released, for any chunks (G1)."""

import html
import itertools
import random
import re
from typing import Any

import phonenumbers
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from services.chassis.threads import AbandonedError
from services.guardrail.detection.spans import Span
from services.guardrail.detection.views import find_spans
from services.guardrail.guard import Guard
from services.guardrail.hold_back import decide_prefix

VIOLATIONS = (
    "jane.doe@acme.com",
    "+1 415-555-2671",
    "(415) 555-2671",
    "4111 1111 1111 1111",
    "5500-0000-0000-0004",
    "DE89 3704 0044 0532 0130 00",
    "GB82WEST12345698765432",
    "536-90-4399",
    "sk-proj-Ab3dEf6hIj9kLm2nOp5q",
    "ghp_16C7e42F292c6912E7710c838347Ae178B4a",
    "AKIAIOSFODNN7EXAMPLE",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dozjgNryP4J3jVmN",
    "-----BEGIN RSA PRIVATE KEY-----\nMIIEowIBAAKCAQEA75\nqhVSd3lX\n-----END RSA PRIVATE KEY-----",
    "postgres://app:s3cr3tPass@db.local/main",
    "sk-\u200bproj-Ab3dEf6h\u200bIj9kLm2nOp5q",
    "４１１１ １１１１ １１１１ １１１１",
    "jane.doe＠acme.com",
    "Email:jane.doe@acme.com",
    "邮箱jane.doe@acme.comまで",
    "password: hunter2222",
    "Bearer abcDEF1234567890abcDEF",
    "api_key = 'Zx81kQmP04vTn7Rb2Ws9'",
)
# Forms that Markdown shows like one of the violations, or with a line break within (S-25).
SHOWN_VIOLATIONS = (
    "AKIA&#73;OSFODNN7EXAMPLE",
    "&#x41;KIAIOSFODNN7EXAMPL&#69;",
    "AKIAIOSF**ODNN7EXAMPLE**",
    "AKIA*_IOSF_*ODNN7EXAMPLE",
    "[AKIAIOSF](https://acme.com)ODNN7EXAMPLE",
    "AKIAIOSF![](x)ODNN7EXAMPLE",
    "AKIAIOSF\nODNN7EXAMPLE",
    "sk_**live**_Ab3dEf6hIj9kLm2nOp5q",
    "jane.doe\\@acme.com",
    "jane.doe&commat;acme.com",
    "4111\n1111\n1111\n1111",
    "4111   1111   1111   1111",
    "> 4111 1111\n> 1111 1111",
    "**4111** **1111** **1111** **1111**",
    "&#52;111&nbsp;1111&nbsp;1111&nbsp;1111",
    "4111.1111.1111.1111",
    "4111_1111_1111_1111",
    "536.90.4399",
    "GB82 WEST 1234\n5698 7654 32",
    "GB82\nWEST\n1234\n5698\n7654\n32",
    "eyJhbGciOiJIUzI1NiJ9\n.eyJzdWIiOiIxMjM0In0.dozj\ngNryP4J3jVmN",
    "pass**word**: hunter2222",
    "Contraseña: hunter2222",
    "-----BEGIN **RSA** PRIVATE KEY&#45;----\nMIIEow\n-----END RSA PRIVATE KEY-----",
)
# Secret part of a violation with a label; the label may be released.
SECRET_PARTS = {
    "postgres://app:s3cr3tPass@db.local/main": "s3cr3tPass",
    "Email:jane.doe@acme.com": "jane.doe@acme.com",
    "邮箱jane.doe@acme.comまで": "jane.doe@acme.com",
    "password: hunter2222": "hunter2222",
    "Bearer abcDEF1234567890abcDEF": "abcDEF1234567890abcDEF",
    "api_key = 'Zx81kQmP04vTn7Rb2Ws9'": "Zx81kQmP04vTn7Rb2Ws9",
}
FILLERS = (
    "Hello there, ",
    "here it is: ",
    "日本語です。",
    "\n\n- item 2: ",
    "It costs 25 euros in 2024. ",
    "naïve café 🙂 ",
    "see v1.2.3 and git@github.com:acme/app ",
    "<img src=logo@2x.png> ssh://git@git.example.org/a ",
    "the token ",
    "call ",
    "e.g. ",
    "key: ",
)
# Lists of short numbers with thin signs between them, in which each number begins a window.
THIN_LISTS = st.builds(
    lambda digits, sign: "".join(f"{digit}{sign}" for digit in digits),
    st.lists(st.sampled_from("0123456789"), min_size=5, max_size=40),
    st.sampled_from(("-\u2800", "-- ", " ", "\n", ") ", " (", ". ", "/ ", "_ ", "* ", " +", "x")),
)
PIECES = st.one_of(
    THIN_LISTS,
    st.sampled_from(FILLERS),
    st.sampled_from(VIOLATIONS).map(lambda text: f" {text} "),
    st.sampled_from(SHOWN_VIOLATIONS).map(lambda text: f" {text}\n"),
    st.text("14aI&#5;*_`~\\\n >-+.:[](!)", max_size=12),
)


def stream(guard: Guard, answer: str, cuts: list[int]) -> tuple[str, list[str]]:
    """Release an answer in chunks as the gateway does; return the whole and the single releases."""
    released, pending, position, parts = "", "", 0, []
    for cut in [*cuts, len(answer)]:
        pending += answer[position:cut]
        position = cut
        release = guard.judge_output("hi", released[-2_000:], pending, cut == len(answer))
        assert 0 <= release.held_characters <= len(pending)
        released += release.text
        parts.append(release.text)
        pending = pending[len(pending) - release.held_characters :]
    return released, parts


@settings(max_examples=250)
@given(st.lists(PIECES, min_size=1, max_size=6), st.data())
def test_released_text_does_not_depend_on_the_chunks(
    guard_once: Guard, pieces: list[str], data: st.DataObject
) -> None:
    answer = "".join(pieces)
    cuts = sorted(data.draw(st.sets(st.integers(1, max(1, len(answer) - 1)), max_size=40)))
    assert (
        stream(guard_once, answer, cuts)[0] == guard_once.judge_output("hi", "", answer, True).text
    )


def test_no_part_of_a_violation_is_released_character_by_character(guard_once: Guard) -> None:
    for violation in VIOLATIONS:
        secret = SECRET_PARTS.get(violation, violation)
        answer = f"Sure, this is it: {violation} and more text follows here."
        released, _ = stream(guard_once, answer, list(range(1, len(answer))))
        assert released.endswith(" and more text follows here."), violation
        before = released[: -len(" and more text follows here.")]
        assert "removed]" in before, violation
        for length in range(3, len(secret) + 1):
            assert secret[:length] not in before or length < 7, (violation, length)


@pytest.mark.parametrize("violation", SHOWN_VIOLATIONS)
def test_no_part_of_a_shown_violation_is_released(guard_once: Guard, violation: str) -> None:
    """Finding S-25: the guard judged the source of an answer, and readers see the shown text."""
    answer = f"This is it:\n\n{violation} and more text follows here."
    whole = guard_once.judge_output("hi", "", answer, True).text
    assert "removed]" in whole
    assert whole.endswith(" and more text follows here.")
    assert not re.search("1111|EXAMPLE|acme|hunter|3jVmN|4399|5698|MII|Ab3dE", whole)
    assert stream(guard_once, answer, list(range(1, len(answer))))[0] == whole


def disguised(secret: str, choose: random.Random) -> str:
    """Return a text shown like `secret` by Markdown."""
    parts = []
    for letter in secret:
        number, letters = ord(letter), letter.isalnum()
        form = choose.choice(("plain", "plain", "decimal", "hex", "named" if letters else "escape"))
        parts.append(
            {
                "plain": letter,
                "decimal": f"&#{number};",
                "hex": f"&#x{number:x};",
                "named": letter + choose.choice(("&ZeroWidthSpace;", "&#8203;", "\u00ad", "")),
                "escape": f"\\{letter}",
            }[form]
        )
    start = choose.randrange(1, len(parts))
    parts[start] = choose.choice(("**", "*", "")) + parts[start]
    opened = re.match(r"\**", parts[start])
    return "".join(parts) + (opened[0] if opened else "")


@settings(max_examples=60)
@given(
    st.sampled_from(
        ("AKIAIOSFODNN7EXAMPLE", "4111111111111111", "jane.doe@acme.com", "536-90-4399")
    ),
    st.randoms(use_true_random=False),
)
def test_shown_text_of_a_release_contains_no_secret(
    guard_once: Guard, secret: str, choose: random.Random
) -> None:
    """CommonMark's rendering by markdown-it is the reference for what is shown."""

    def shown(text: str) -> str:
        rendered = html.unescape(re.sub(r"<[^>]*>", "", MarkdownIt().render(text)))
        return re.sub("[\u200b\u00ad]", "", rendered)

    answer = f"This is it: {disguised(secret, choose)} and more."
    release = guard_once.judge_output("hi", "", answer, True)
    assert secret not in shown(release.text)
    if secret in shown(answer):
        assert "removed]" in release.text


@settings(max_examples=100)
@given(st.text(), st.data())
def test_released_text_of_arbitrary_characters_does_not_depend_on_chunks(
    guard_once: Guard, answer: str, data: st.DataObject
) -> None:
    cuts = sorted(data.draw(st.sets(st.integers(1, max(1, len(answer) - 1)), max_size=20)))
    whole = guard_once.judge_output("hi", "", answer, True)
    assert stream(guard_once, answer, cuts)[0] == whole.text
    assert whole.held_characters == 0


def test_ordinary_words_are_released_at_their_end(guard_once: Guard) -> None:
    release = guard_once.judge_output("hi", "", "The capital of France is Par", False)
    assert (release.text, release.held_characters) == ("The capital of France is ", 3)


def test_chinese_answer_is_released_without_spaces(guard_once: Guard) -> None:
    release = guard_once.judge_output("hi", "", "法国的首都是巴黎", False)
    assert release.held_characters <= 1


def test_held_back_text_is_bounded(guard_once: Guard) -> None:
    for endless in (
        "a" * 5_000,
        "1 " * 5_000,
        "-----BEGIN RSA PRIVATE KEY-----\n" + "QUJD\n" * 5_000,
    ):
        held = 0
        pending = ""
        for start in range(0, len(endless), 500):
            pending += endless[start : start + 500]
            release = guard_once.judge_output("hi", "", pending, False)
            held = max(held, release.held_characters)
            pending = (
                pending[len(pending) - release.held_characters :] if release.held_characters else ""
            )
        assert held <= 17_000


@pytest.mark.parametrize(
    "unit",
    [
        "4111\n",
        "4111 ",
        "DE89 ",
        "eyJa1\n",
        "eyJa1b2c3\n",
        "sk-" + "a1" * 40 + "\n",
        "key: eyJa1b2c3\n",
        "key: ",
        "&#52;111\n",
        "**4111** ",
        "> 4111\n",
        "1-\u2800",
        "1-- ",
        "1_ ",
    ],
)
def test_windows_of_a_text_are_bounded(unit: str) -> None:
    """A window for each word of up to 4,096 characters took minutes for one text."""
    judged = []

    def detect(window: str, before: int) -> list[Span]:
        judged.append(len(window))
        return []

    text = unit * (8_000 // len(unit))
    assert decide_prefix(text, detect, final=True).length == len(text)
    assert max(judged, default=0) <= 1_600
    assert sum(judged) <= 40 * len(text)


@pytest.mark.parametrize(
    "unit", ["1-\u2800", "1-- ", "2-- ", "212-- ", "4 1 5 5 5 5 2 6 7 1 ", "4155552671% ", "+1-1 "]
)
def test_matcher_of_phone_numbers_reads_a_bounded_number_of_characters(
    monkeypatch: pytest.MonkeyPatch, guard_once: Guard, unit: str
) -> None:
    """Finding N-02: a window for each of 2,730 numbers took 4 to 9 s for 8,190 characters."""
    matched = []

    class CountedMatcher(phonenumbers.PhoneNumberMatcher):
        def __init__(self, text: str, region: str, **options: Any) -> None:
            matched.append(len(text))
            super().__init__(text, region, **options)

    monkeypatch.setattr(phonenumbers, "PhoneNumberMatcher", CountedMatcher)
    text = (unit * 300)[:600]
    guard_once.judge_output("hi", "", text, True)
    assert sum(matched) <= 2 * len(text)


@pytest.mark.parametrize("unit", ["a@acme.com,", "536-90-4399,", "4111111111111111;"])
def test_searches_in_one_word_are_bounded(unit: str) -> None:
    """One search for each of 1,000 addresses in a word of 8,000 characters took 3 s."""
    windows = []

    def detect(window: str, before: int) -> list[Span]:
        windows.append(window)
        return find_spans(window, "US", before)

    text = f"Write to {unit * 100}"
    decided = decide_prefix(text, detect, final=True)
    assert len(windows) <= 40
    assert decided.length == len(text)
    assert decided.spans[-1].end == len(text)


def test_abandoned_text_is_left_at_the_next_word(guard_once: Guard) -> None:
    calls = itertools.count()

    def checkpoint() -> None:
        if next(calls) == 10:
            raise AbandonedError

    with pytest.raises(AbandonedError):
        guard_once.judge_output("hi", "", "1-- " * 2_000, True, checkpoint)
    assert next(calls) == 11


@pytest.mark.parametrize("line", ["1\n", "1*\n", "&#52;\n", "1-\n"])
def test_windows_of_a_list_of_numbers_have_four_lines(line: str) -> None:
    """A window of 64 characters for each line took 440 ms for 8,000 characters."""
    judged = []

    def detect(window: str, before: int) -> list[Span]:
        judged.append(window)
        return []

    decide_prefix(line * 100, detect, final=True)
    assert max(window.count("\n") for window in judged) == 3
