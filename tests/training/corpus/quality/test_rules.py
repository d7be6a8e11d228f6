"""Each rule drops a text beyond its limit and names the measured value; ordinary text stays."""

import re
from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.corpus.document import CorpusError, Document, Stage, Verdict
from training.corpus.quality import c4, fineweb, gopher, ngrams, words
from training.corpus.quality.steps import (
    GROUPS,
    QualityConfig,
    QualityRules,
    fineweb2_limits,
    quality_steps,
)
from training.corpus.quality.words import CHUNK_BYTES, WORD_BYTES, Tokenizer

Make = Callable[..., Document]


def rule_of(result: Document | Verdict) -> tuple[str, str]:
    assert isinstance(result, Verdict), result
    assert result.stage is Stage.QUALITY
    return result.rule, result.value


@pytest.fixture(scope="module")
def all_rules() -> QualityRules:
    (rules,) = quality_steps(QualityConfig())
    assert isinstance(rules, QualityRules)
    return rules


def test_ordinary_text_passes_all_rules(
    document: Make, prose: str, all_rules: QualityRules
) -> None:
    assert all_rules(document(prose)) == document(prose)


@pytest.mark.parametrize(
    ("text", "rule", "value"),
    [
        ("", "gopher empty", ""),
        ("a\n\nb\n\na\n\nb\n\na", "gopher duplicate paragraphs", "0.6 (at most 0.3)"),
        (
            "x" * 30 + "\n\nb\n\nc\n\nd\n\n" + "x" * 30,
            "gopher duplicate paragraph characters",
            "0.422535 (at most 0.2)",
        ),
        ("a\nb\nc\na\nb", "gopher duplicate lines", "0.4 (at most 0.3)"),
        (
            "x" * 30 + "\nb\nc\nd\n" + "x" * 30,
            "gopher duplicate line characters",
            "0.447761 (at most 0.2)",
        ),
        ("ab ab ab ab", "gopher top 2-gram", "1.36364 (at most 0.2)"),
        (" ".join(f"aa{n} bb cc" for n in range(9)), "gopher top 2-gram", None),
        (
            # Each phrase occurs twice, so that no n-gram is frequent.
            " ".join(
                f"w{n} q{n} e{n} r{n} t{n} y{n}" for twice in (0, 1) for n in range(twice, 30)
            ),
            "gopher duplicate 5-grams",
            None,
        ),
    ],
)
def test_repetition(
    document: Make, english: Tokenizer, text: str, rule: str, value: str | None
) -> None:
    found = rule_of(gopher.Repetition(english)(document(text)))
    assert found[0] == rule
    assert value is None or found[1] == value


WORDS = st.lists(st.sampled_from(["a", "b", "ab", "ba", "aab", "c"]), min_size=1, max_size=60)


@settings(max_examples=80, deadline=None)
@given(words=WORDS, n=st.integers(2, 10), limit=st.sampled_from([0.0, 0.05, 0.2, 0.5]))
def test_ngrams_equal_their_definition(
    english: Tokenizer, words: list[str], n: int, limit: float
) -> None:
    text = " ".join(words)
    hashes = list(ngrams.ngram_hashes(english.words(text), 10))[n - 2]

    joined = [" ".join(words[i : i + n]) for i in range(len(words) - n + 1)]
    ngram, occurrences = Counter(joined).most_common(1)[0] if joined else ("", 0)
    top = len(ngram) * occurrences / len(text)
    found = ngrams.exceeding_top_ngram(english.words(text), n, hashes, limit)
    assert found == (top if top > limit else None)

    seen: set[str] = set()
    characters = place = 0
    while place < len(words) - n + 1:
        ngram = "".join(words[place : place + n])
        characters += len(ngram) if ngram in seen else 0
        place += n if ngram in seen else 1
        seen.add(ngram)
    repeated = characters / len(text)
    found = ngrams.exceeding_duplicates(english.words(text), n, hashes, limit)
    assert found == (repeated if repeated > limit else None)


def test_equal_hashes_of_unequal_ngrams_change_no_result(english: Tokenizer) -> None:
    text = " ".join(f"word{number}" for number in range(100))
    words = english.words(text)
    same = list(ngrams.ngram_hashes(words, 5))[-1] * 0
    assert ngrams.exceeding_duplicates(words, 5, same, 0.0) is None
    assert ngrams.exceeding_top_ngram(words, 5, same, 0.1) is None


SENTENCE = "The people of the town have talked to their neighbours with great care today."


@pytest.mark.parametrize(
    ("text", "rule", "value"),
    [
        ("The end of it.", "gopher few words", "4 (at least 50)"),
        ("the of " * 50_001, "gopher many words", "100002 (at most 100000)"),
        ("of to " + "a " * 60, "gopher short words", "1.03226 (at least 3)"),
        ("with that " + "abcdefghijkl " * 60, "gopher long words", "11.7419 (at most 10)"),
        (f"{SENTENCE}\n" * 5 + "# " * 10, "gopher hash signs", "0.117647 (at most 0.1)"),
        (f"{SENTENCE}\n" * 5 + "... " * 10, "gopher ellipses", "0.117647 (at most 0.1)"),
        (f"- {SENTENCE}\n" * 5, "gopher bullet lines", "1 (at most 0.9)"),
        (f"{SENTENCE[:-1]}…\n" * 5, "gopher ellipsis lines", "1 (at most 0.3)"),
        (SENTENCE * 4 + " 1234" * 20, "gopher alphabetic words", None),
        ("Niemand kennt den Namen dieser Stadt. " * 10, "gopher stop words", "0 (at least 2)"),
    ],
)
def test_quality(
    document: Make, english: Tokenizer, text: str, rule: str, value: str | None
) -> None:
    found = rule_of(gopher.Quality(english)(document(text)))
    assert found[0] == rule
    assert value is None or found[1] == value


@pytest.mark.parametrize(
    ("line", "kept"),
    [
        ("Two words", False),
        ("Please enable JavaScript in your browser.", False),
        ("Read our Privacy Policy before you go on.", False),
        ("Read our java[1]script before you go on.", False),
        ("x" * 1001 + " follows and ends here.", False),
        ("x" * 1000 + " follows and ends here.", True),
        ("A line without a full stop", True),
    ],
)
def test_c4_removes_lines(document: Make, english: Tokenizer, line: str, kept: bool) -> None:
    text = "\n".join([SENTENCE] * 5)
    result = c4.Lines(english)(document(f"{text}\n  {line}  \n"))
    assert isinstance(result, Document)
    assert result.text == (f"{text}\n{line}" if kept else text)


def test_c4_removes_citations_and_by_setting_open_lines(document: Make, english: Tokenizer) -> None:
    text = "\n".join([f"{SENTENCE}[12][edit][citation needed]"] * 5 + ["An open line here"])
    kept = c4.Lines(english, punctuated=True)(document(text))
    assert kept == document("\n".join([SENTENCE] * 5))


@pytest.mark.parametrize(
    ("text", "rule", "value"),
    [
        (f"{SENTENCE}\n" * 4, "c4 few sentences", "4 (at least 5)"),
        (f"{SENTENCE}\n" * 9 + "Lorem Ipsum dolor sit.", "c4 lorem ipsum", ""),
        (f"{SENTENCE}\n" * 9 + "int main() { return; }", "c4 curly bracket", ""),
    ],
)
def test_c4_drops_texts(
    document: Make, english: Tokenizer, text: str, rule: str, value: str
) -> None:
    assert rule_of(c4.Lines(english)(document(text))) == (rule, value)


LONG = "A line of this length is no short one"


@pytest.mark.parametrize(
    ("text", "rule", "value"),
    [
        (" \n\t\n", "fineweb empty", ""),
        (
            "\n".join(f"{LONG} {n}" for n in range(9)),
            "fineweb punctuated lines",
            "0 (at least 0.12)",
        ),
        (
            "\n".join(["short."] * 7 + [f"{LONG} {n}." for n in range(3)]),
            "fineweb short lines",
            "0.7 (at most 0.67)",
        ),
        (
            "\n".join([f"{LONG}."] * 2 + [f"{LONG} {n}." for n in range(9)]),
            "fineweb duplicate line characters",
            None,
        ),
        (
            "\n\n\n\n\n".join(f"{LONG} {n}." for n in range(9)),
            "fineweb line breaks",
            None,
        ),
    ],
)
def test_fineweb(
    document: Make, english: Tokenizer, text: str, rule: str, value: str | None
) -> None:
    found = rule_of(fineweb.Lines(english)(document(text)))
    assert found[0] == rule
    assert value is None or found[1] == value


def test_languages_have_their_own_limits(
    document: Make, german_prose: str, all_rules: QualityRules
) -> None:
    german, rules = german_prose, all_rules
    assert rules(document(german, "de")) == document(german, "de")
    assert rule_of(rules(document(german, "en")))[0] == "gopher stop words"
    assert rule_of(rules(document("Die Stadt. " * 9, "de")))[0] == "gopher top 2-gram"
    # Without a source for limits of words, only lines and paragraphs count.
    assert rules(document(german, "tlh")) == document(german, "tlh")
    assert rule_of(rules(document("行\n行\n行", "zh")))[0] == "gopher duplicate lines"


def test_limits_of_all_languages_are_complete() -> None:
    limits = fineweb2_limits()
    assert len(limits) == 50
    for one in limits.values():
        shortest, longest = one["word_length"]
        assert 0 <= shortest < longest
        assert [n for n, _ in one["top_ngrams"]] == [2, 3, 4]
        assert [n for n, _ in one["duplicate_ngrams"]] == [5, 6, 7, 8, 9, 10]
        shares = [one["duplicate_lines"], one["punctuated_lines"], one["alphabetic_words"]]
        assert all(0 <= share < 1 for share in shares)
        assert len(one["stop_words"]) >= 2


def test_groups_can_be_left_out(document: Make) -> None:
    assert quality_steps(QualityConfig(groups=())) == []
    (step,) = quality_steps(QualityConfig(groups=("fineweb",)))
    text = "\n".join(f"Line {n} is short but ends with a stop." for n in range(2))
    assert step(document(text, "tlh")) == document(text, "tlh")


@pytest.mark.parametrize(
    ("change", "field"),
    [({"groups": ("gopher",)}, "quality.groups"), ({"table_bytes": 0}, "quality.table_bytes")],
)
def test_wrong_settings_are_refused(change: dict[str, object], field: str) -> None:
    with pytest.raises(CorpusError) as raised:
        QualityConfig(**change)  # type: ignore[arg-type]
    assert raised.value.field == field
    assert set(GROUPS) == {"gopher repetition", "gopher quality", "c4", "fineweb"}


def test_full_tables_are_emptied_and_change_no_verdict(
    document: Make, prose: str, all_rules: QualityRules
) -> None:
    small = QualityRules(QualityConfig(table_bytes=2**20))
    texts = [prose.replace("people", f"p{n}x people") + f" {n}." for n in range(2)]
    many = [" ".join(f"w{n}x{place}" for place in range(900)) for n in range(2)]
    for text in (*texts, *many, *texts):
        assert small(document(text)) == all_rules(document(text))


@pytest.fixture
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = {"LONG_TEXT": 500, "MAX_WORDS": 100, "CERTAIN_WORDS": 125, "CERTAIN_TOKENS": 200}
    for name, value in limits.items():
        monkeypatch.setattr(gopher, name, value)
    monkeypatch.setattr(words, "_PART", re.compile(r"(?s:.{1,200}(?!\S)|.{1,200})"))


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("the same line again\n" * 60, "gopher many words"),
        ("the same line again\n" * 30, "gopher duplicate lines"),
        ("- - - -\n" * 100, "gopher many punctuation marks"),
        ("- - - -\n" * 45 + "x" * 300, "gopher duplicate lines"),
        ("(" * 2000, "gopher many punctuation marks"),
    ],
    ids=["many words", "perhaps few words", "symbols", "few symbols", "no spaces"],
)
@pytest.mark.usefixtures("small_limits")
def test_long_texts_of_many_words_are_dropped_first(document: Make, text: str, rule: str) -> None:
    verdict = QualityRules(QualityConfig())(document(text))
    assert isinstance(verdict, Verdict)
    assert verdict.rule == rule


@pytest.mark.usefixtures("small_limits")
def test_words_of_a_long_text_are_not_all_kept_in_memory(
    document: Make, english: Tokenizer
) -> None:
    before = english.bytes
    text = " ".join(f"q{number}z" for number in range(5000))
    assert isinstance(gopher.LongTexts(english)(document(text)), Verdict)
    assert english.bytes - before < 300 * (WORD_BYTES + CHUNK_BYTES), "of 5,000 words"


@pytest.mark.usefixtures("small_limits")
def test_parts_of_a_text_have_its_words(english: Tokenizer, prose: str) -> None:
    text = prose + "\n\n" + prose.replace(" ", "  ").replace("people", "people's can't")
    parts = [
        english.words(text).vocabulary.texts[number]
        for part in english.parts(text)
        for number in part
    ]
    assert parts == english.words(text).texts
    assert len(list(english.parts(text))) > 5


def test_share_of_words_is_too_small_after_the_certain_number_of_punctuation_marks() -> None:
    least = [limits["alphabetic_words"] for limits in fineweb2_limits().values()]
    share = gopher.MAX_WORDS / (gopher.CERTAIN_TOKENS / 1.1)
    assert share < min(*least, gopher.QualityLimits().alphabetic_words)


def test_long_texts_stay_without_the_rule_on_words(
    document: Make, prose: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("LONG_TEXT", "MAX_WORDS", "CERTAIN_WORDS", "CERTAIN_TOKENS"):
        monkeypatch.setattr(gopher, name, 3)
    rules = QualityRules(QualityConfig(groups=("fineweb",)))
    assert isinstance(rules(document(prose)), Document)
