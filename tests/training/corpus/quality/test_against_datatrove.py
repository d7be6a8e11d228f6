"""Each decision of the quality rules and the URL filter equals datatrove's."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.support.quality_texts import (
    encyclopedia_texts,
    judge_with_datatrove,
    manual_texts,
    urls,
)
from training.corpus.document import Document, Verdict
from training.corpus.quality.gopher import LONG_TEXT
from training.corpus.quality.steps import QualityConfig, QualityRules, fineweb2_limits
from training.corpus.quality.url_lists import packaged_lists
from training.corpus.quality.urls import UrlFilter

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800), pytest.mark.usefixtures("documentation")]

RULES = {
    "": "",
    "gopher empty": "empty",
    "gopher duplicate paragraphs": "dup_para_frac",
    "gopher duplicate paragraph characters": "dup_para_char_frac",
    "gopher duplicate lines": "dup_line_frac",
    "gopher duplicate line characters": "dup_line_char_frac",
    **{f"gopher top {n}-gram": f"top_{n}_gram" for n in (2, 3, 4)},
    **{f"gopher duplicate {n}-grams": f"duplicated_{n}_n_grams" for n in range(5, 11)},
    "gopher few words": "gopher_short_doc",
    "gopher many words": "gopher_long_doc",
    "gopher short words": "gopher_below_avg_threshold",
    "gopher long words": "gopher_above_avg_threshold",
    "gopher hash signs": "gopher_too_many_hashes",
    "gopher ellipses": "gopher_too_many_ellipsis",
    "gopher bullet lines": "gopher_too_many_bullets",
    "gopher ellipsis lines": "gopher_too_many_end_ellipsis",
    "gopher alphabetic words": "gopher_below_alpha_threshold",
    "gopher stop words": "gopher_enough_stop_words",
    "c4 lorem ipsum": "lorem_ipsum",
    "c4 curly bracket": "curly_bracket",
    "c4 few sentences": "too_few_sentences",
    "fineweb empty": "empty",
    "fineweb punctuated lines": "line_punct_ratio",
    "fineweb short lines": "short_line_ratio",
    "fineweb duplicate line characters": "char_dup_ratio",
    "fineweb line breaks": "list_ratio",
}
# This rule drops texts above LONG_TEXT before their n-grams are counted. datatrove's filter drops
# them as well, for example for their repeated n-grams.
FIRST_OF_LONG = "gopher many words"
# Entries of the lists that datatrove's filter cannot match.
ONLY_OURS = {"listed url", "listed host", "listed parent domain"}


def differences(texts: list[str], language: str, document: Callable[..., Document]) -> list[int]:
    """Return the numbers of texts with another decision, reason, or text left."""
    record: dict[str, Any] = {}
    if language != "en":
        limits = fineweb2_limits()[language]
        record = {"language": limits["config"], "limits": limits}
    theirs = judge_with_datatrove("texts", [{"text": text, **record} for text in texts])
    rules = QualityRules(QualityConfig())
    found = []
    for number, (text, their) in enumerate(zip(texts, theirs.results, strict=True)):
        result = rules(document(text, language))
        if isinstance(result, Verdict):
            is_first = result.rule == FIRST_OF_LONG and len(text) > LONG_TEXT
            same = their["reason"] != "" if is_first else RULES[result.rule] == their["reason"]
        else:
            same = their == {"reason": "", "text": result.text}
        if not same:
            found.append(number)
    return found


def test_pages_of_manuals(document: Callable[..., Document]) -> None:
    assert differences(manual_texts(3000), "en", document) == []


def test_encyclopedia_texts(document: Callable[..., Document]) -> None:
    assert differences(encyclopedia_texts(20_000), "en", document) == []


@pytest.mark.parametrize(("language", "code"), [("fr", "fr-fr"), ("es", "es-es")])
def test_other_languages(document: Callable[..., Document], language: str, code: str) -> None:
    assert differences(encyclopedia_texts(4000, code), language, document) == []


def test_urls() -> None:
    tried = urls(20_000)
    theirs = judge_with_datatrove("urls", tried).results
    url_filter = UrlFilter(packaged_lists())
    ours = [verdict.rule if (verdict := url_filter(url)) else "" for url in tried]
    others = [
        number
        for number, (own, their) in enumerate(zip(ours, theirs, strict=True))
        if bool(own) != bool(their) and own not in ONLY_OURS
    ]
    assert others == []
    assert sum(map(bool, theirs)) > 1000
    assert {own for own in ours if own} > ONLY_OURS - {"listed host"}
