"""Decisions of datatrove's filters; runs in the environment of locks/datatrove.txt.

Usage: `python datatrove_filters.py (texts|urls) IN OUT`. IN is a JSON file with a list of records;
OUT gets the list of results and the seconds of processor time.

texts: records {"text", "language"}. A result is {"reason"} of the first filter that drops the text,
or {"reason": "", "text"} with the text that is left. `language` is "eng_Latn" for the recipe of
FineWeb; other languages have the configuration of FineWeb-2 in `limits`.
urls: a record is a URL, a result the reason or "".
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from datatrove.data import Document  # type: ignore[import-not-found]
from datatrove.pipeline.filters import (  # type: ignore[import-not-found]
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
    URLFilter,
)
from tldextract import TLDExtract


def english_filters() -> list[Any]:
    """Return the filters of examples/fineweb.py in the repository of datatrove."""
    return [
        GopherRepetitionFilter(),
        GopherQualityFilter(),
        C4QualityFilter(filter_no_terminal_punct=False),
        FineWebQualityFilter(),
    ]


def filters_of(language: str, limits: dict[str, Any]) -> list[Any]:
    """Return the filters of fineweb-2-pipeline.py in the repository of FineWeb-2."""
    shortest, longest = limits["word_length"]
    return [
        GopherRepetitionFilter(
            language=language,
            dup_para_frac=0,
            dup_line_char_frac=0,
            dup_para_char_frac=0,
            dup_line_frac=limits["duplicate_lines"],
            top_n_grams=limits["top_ngrams"],
            dup_n_grams=limits["duplicate_ngrams"],
        ),
        FineWebQualityFilter(
            language=language,
            short_line_thr=999,
            char_duplicates_ratio=0.1,
            line_punct_thr=limits["punctuated_lines"],
            new_line_ratio=limits["line_breaks"],
        ),
        GopherQualityFilter(
            language=language,
            max_avg_word_length=longest,
            min_avg_word_length=shortest,
            stop_words=limits["stop_words"],
            max_non_alpha_words_ratio=limits["alphabetic_words"],
            min_stop_words=2,
        ),
    ]


def judge_texts(records: list[dict[str, Any]]) -> list[dict[str, str]]:
    filters = {"eng_Latn": english_filters()}
    results = []
    for record in records:
        language = record.get("language", "eng_Latn")
        if language not in filters:
            filters[language] = filters_of(language, record["limits"])
        document = Document(text=record["text"], id="")
        reason = ""
        for one in filters[language]:
            result = one.filter(document)
            if result is not True:
                reason = str(result[1])
                break
        results.append({"reason": reason} if reason else {"reason": "", "text": document.text})
    return results


def judge_urls(urls: list[str]) -> list[str]:
    url_filter = URLFilter()
    # The public suffix list of the package, without a download.
    url_filter.tldextractor = TLDExtract(suffix_list_urls=())
    results = (url_filter.filter(Document(text="", id="", metadata={"url": url})) for url in urls)
    return ["" if result is True else str(result[1]) for result in results]


def main() -> None:
    kind, source, target = sys.argv[1:]
    records = json.loads(Path(source).read_text())
    judge: Any = judge_texts if kind == "texts" else judge_urls
    judge(records[:1])  # loads the tokenizer or the lists
    started = time.process_time()
    results = judge(records)
    seconds = time.process_time() - started
    Path(target).write_text(json.dumps({"results": results, "seconds": seconds}))


if __name__ == "__main__":
    main()
