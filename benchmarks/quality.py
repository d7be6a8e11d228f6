"""Quality rules against datatrove's filters: `python -m benchmarks.quality`.

Both judge the same batches in turn, each in one process. The unit is processor time, without the
loading of tokenizers. The table of words is empty at first and grows from batch to batch, as in a
worker; `--batches` sets how far. The URL filter is measured alike.
"""

import argparse
import time

from tests.support.quality_texts import (
    encyclopedia_texts,
    judge_with_datatrove,
    manual_texts,
    urls,
)
from training.corpus.document import Document, Origin, Verdict
from training.corpus.quality.steps import QualityConfig, QualityRules
from training.corpus.quality.url_lists import packaged_lists
from training.corpus.quality.urls import UrlFilter


def compare_texts(name: str, texts: list[str], batches: int) -> None:
    rules = QualityRules(QualityConfig())
    rules(Document(Origin("0"), "A text that loads the tokenizer.", "en"))
    ours = theirs = 0.0
    kept, kept_by_datatrove = set(), set()
    for first in range(batches):
        batch = texts[first::batches]
        judged = judge_with_datatrove("texts", [{"text": text} for text in batch])
        documents = [Document(Origin("0"), text, "en") for text in batch]
        started = time.process_time()
        results = [rules(document) for document in documents]
        seconds = time.process_time() - started
        ours, theirs = ours + seconds, theirs + judged.seconds
        for number, (result, their) in enumerate(zip(results, judged.results, strict=True)):
            if not isinstance(result, Verdict):
                kept.add((first, number))
            if not their["reason"]:
                kept_by_datatrove.add((first, number))
        print(f"{name} batch {first}: {judged.seconds / seconds:.1f} times datatrove's documents/s")
    jaccard = len(kept & kept_by_datatrove) / max(1, len(kept | kept_by_datatrove))
    print(
        f"{name}: {len(texts)} documents, {sum(map(len, texts)) / 1e6:.1f} M characters; "
        f"{len(texts) / ours:.0f} documents/s/core, datatrove {len(texts) / theirs:.0f}, "
        f"ratio {theirs / ours:.1f}; Jaccard of the kept sets {jaccard:.4f} of {len(kept)}"
    )


def compare_urls(count: int) -> None:
    tried = urls(count)
    theirs = judge_with_datatrove("urls", tried)
    url_filter = UrlFilter(packaged_lists())
    url_filter(tried[0])
    started = time.process_time()
    for url in tried:
        url_filter(url)
    seconds = time.process_time() - started
    print(
        f"urls: {1e6 * seconds / count:.1f} µs a URL, datatrove "
        f"{1e6 * theirs.seconds / count:.1f} µs, ratio {theirs.seconds / seconds:.1f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality", description=__doc__)
    parser.add_argument("--pages", type=int, default=600, help="pages of manuals")
    parser.add_argument("--texts", type=int, default=4000, help="texts of an encyclopedia")
    parser.add_argument("--urls", type=int, default=20_000)
    parser.add_argument("--batches", type=int, default=4)
    options = parser.parse_args()
    compare_texts("manuals", manual_texts(options.pages), options.batches)
    compare_texts("encyclopedia", encyclopedia_texts(options.texts), options.batches)
    compare_urls(options.urls)


if __name__ == "__main__":
    main()
