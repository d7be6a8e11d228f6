"""FineWeb's recipe up to its near duplicates; runs in the environment of locks/datatrove.txt.

Usage: `python datatrove_recipe.py EXTRACTOR INPUT OUT MODEL`. The steps are those of
examples/fineweb.py in the repository of datatrove, with its writers of dropped documents.

EXTRACTOR: "trafilatura", as in the recipe; "resiliparse", with the options of training/corpus; or
"none", for JSON lines instead of WARC files.
INPUT: folder of the files.
OUT: gets `kept` and `dropped/NAME OF STEP` as compressed JSON lines. Pages without text are in
neither.
MODEL: file of the language model, which the recipe downloads.
"""

from __future__ import annotations

import sys
from typing import Any

from datatrove.executor import LocalPipelineExecutor  # type: ignore[import-not-found]
from datatrove.pipeline.extractors import Trafilatura  # type: ignore[import-not-found]
from datatrove.pipeline.extractors.base import BaseExtractor  # type: ignore[import-not-found]
from datatrove.pipeline.filters import (  # type: ignore[import-not-found]
    LanguageFilter,
    URLFilter,
)
from datatrove.pipeline.readers import JsonlReader, WarcReader  # type: ignore[import-not-found]
from datatrove.pipeline.writers.jsonl import JsonlWriter  # type: ignore[import-not-found]
from datatrove_filters import english_filters  # type: ignore[import-not-found]
from tldextract import TLDExtract

# The default of 1 s of wall time drops pages on a busy machine.
EXTRACTION_SECONDS = 600.0


class Resiliparse(BaseExtractor):  # type: ignore[misc]
    """Extractor with the library and options that training/corpus/extraction.py uses."""

    def __init__(self) -> None:
        super().__init__(EXTRACTION_SECONDS)

    def extract(self, text: str) -> str:
        from resiliparse.extract.html2text import extract_plain_text
        from resiliparse.parse.html import HTMLTree

        return extract_plain_text(
            HTMLTree.parse(text), preserve_formatting=True, main_content=True, alt_texts=False
        )


def main() -> None:
    extractor, source, out, model = sys.argv[1:]
    readers = {"none": JsonlReader}
    extractors: dict[str, list[Any]] = {
        "none": [],
        "resiliparse": [Resiliparse()],
        "trafilatura": [Trafilatura(favour_precision=True, timeout=EXTRACTION_SECONDS)],
    }
    urls, language = URLFilter(), LanguageFilter("en")
    # Without downloads: the public suffix list of the package, and a model from a file.
    urls.tldextractor = TLDExtract(suffix_list_urls=())
    language.model.MODEL_URL = model
    filters = {
        "url": urls,
        "language": language,
        **{type(one).__name__: one for one in english_filters()},
    }
    for name, one in filters.items():
        one.exclusion_writer = JsonlWriter(f"{out}/dropped/{name}")
    LocalPipelineExecutor(
        pipeline=[
            readers.get(extractor, WarcReader)(source),
            filters.pop("url"),
            *extractors[extractor],
            *filters.values(),
            JsonlWriter(f"{out}/kept"),
        ],
        workers=1,
        logging_dir=f"{out}/logs",
    ).run()


if __name__ == "__main__":
    main()
