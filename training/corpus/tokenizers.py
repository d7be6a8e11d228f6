"""`thumbwheel data tokenizers`: how many bytes a token of words, byte pairs and encodings holds.

Words, characters and byte pairs are learned from a sample of the texts; published encodings and
given tokenizers are opened. All are measured on held-out blocks, by language.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from training.corpus.block_sample import Block, take_sample
from training.corpus.document import CorpusError, Document, Origin, Rejected
from training.corpus.language import LanguageIdentifier
from training.corpus.sources.config import ENDINGS, SourceConfig, detect_kind
from training.tokenization.byte_pairs import TOKENIZER
from training.tokenization.comparison import Figures, measure, parse_sizes, table, total
from training.tokenization.learning import TokenizerConfig, TokenKind, learn, save
from training.tokenization.published import PUBLISHED, open_published, rank_file
from training.tokenization.text_tokenizer import TextTokenizer, open_tokenizer

SUMMARY = "compare words, characters, byte pairs and published encodings on texts, by language"
VOCABULARIES = (8192, 32_768)
HELD_OUT_SHARE = 0.1
SAMPLE_MEGABYTES = 10
MAX_SAMPLE_MEGABYTES = 100  # two samples; Python holds up to four bytes for a byte of UTF-8
MEGABYTE = 1_000_000
SHOWN_LANGUAGES = 6
UNKNOWN_LANGUAGE = "unknown"
ALL = "all"
LEARNED_UNITS = tuple(kind for kind in TokenKind if kind is not TokenKind.BYTE_PAIRS)


@dataclass(frozen=True)
class Comparison:
    """Figures of tokenizers on held-out text.

    Attributes:
        learned_bytes: size of the text from which tokenizers were learned.
        languages: figures by language, in the order of the tokenizers; languages with more text
            come first. The key ALL has the totals.
    """

    learned_bytes: int
    languages: Mapping[str, Sequence[Figures]]

    @property
    def shown(self) -> list[tuple[str, Sequence[Figures]]]:
        """Return the totals and the languages with the most text."""
        languages = list(self.languages.items())
        # With one language the totals are its figures.
        return languages[1:] if len(languages) == 2 else languages[: SHOWN_LANGUAGES + 1]

    def to_json(self) -> dict[str, Any]:
        """Return the figures with counts and ratios."""
        return {
            "learned_bytes": self.learned_bytes,
            "languages": {
                language: [
                    {
                        **asdict(one),
                        "bytes_per_token": one.bytes_per_token,
                        "tokens_per_word": one.tokens_per_word,
                        "unknown_share": one.unknown_share,
                        "exact_share": one.exact_share,
                    }
                    for one in figures
                ]
                for language, figures in self.languages.items()
            },
        }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "texts",
        nargs="+",
        type=Path,
        metavar="TEXTS",
        help=".txt, .jsonl, .parquet, WET (.gz, .zst), or folders of them",
    )
    parser.add_argument(
        "--tokenizer",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="another tokenizer, for example of a model; may be repeated",
    )
    parser.add_argument(
        "--published",
        choices=PUBLISHED,
        action="append",
        metavar="NAME",
        help=f"a published encoding, by default all: {', '.join(PUBLISHED)}; may be repeated",
    )
    parser.add_argument(
        "--vocabulary",
        type=parse_sizes,
        default=VOCABULARIES,
        metavar="N,N",
        help="sizes of the learned byte pairs (8192,32768); words have the largest",
    )
    parser.add_argument(
        "--sample-megabytes",
        type=int,
        default=SAMPLE_MEGABYTES,
        metavar="N",
        help="text to learn from, and text to measure on, at most (10; up to 100)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures as JSON")


def run(options: argparse.Namespace) -> int:
    """Compare and print the tables.

    Raises:
        CorpusError: a file is missing, the texts are too few, or an option is out of range.
        TokenizerError: a given tokenizer cannot be opened.
    """
    if not 1 <= options.sample_megabytes <= MAX_SAMPLE_MEGABYTES:
        raise CorpusError(
            f"sample-megabytes: {options.sample_megabytes}, from 1 to {MAX_SAMPLE_MEGABYTES}",
            field="sample-megabytes",
            reason="OUT_OF_RANGE",
            limit=f"1 to {MAX_SAMPLE_MEGABYTES}",
        )
    # Open given tokenizers first, so that errors appear before the reading.
    given = [(open_published(name), rank_file(name)) for name in options.published or PUBLISHED]
    given += [(open_tokenizer(folder), folder / TOKENIZER) for folder in options.tokenizer]
    learning, held_out = take_sample(
        read_documents(options.texts), HELD_OUT_SHARE, options.sample_megabytes * MEGABYTE
    )
    largest = max(options.vocabulary)
    configs = [TokenizerConfig(size) for size in sorted(set(options.vocabulary))]
    configs += [TokenizerConfig(largest, kind) for kind in LEARNED_UNITS]
    compared = compare(learning, held_out, configs, given, _say)
    print(f"{compared.learned_bytes / MEGABYTE:,.1f} MB of text to learn from")
    for language, figures in compared.shown:
        size = figures[0].text_bytes / MEGABYTE
        print(f"\n{language}: {figures[0].texts:,} held-out blocks, {size:,.2f} MB")
        print(table(figures))
    if (hidden := len(compared.languages) - SHOWN_LANGUAGES - 1) > 0:
        print(f"\n{hidden} more languages with less text (--json has all)")
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(compared.to_json(), indent=1) + "\n")
    return 0


def compare(
    learning: Sequence[Block],
    held_out: Sequence[Block],
    configs: Sequence[TokenizerConfig],
    given: Sequence[tuple[TextTokenizer, Path]],
    report: Callable[[str], None],
) -> Comparison:
    """Learn tokenizers and measure them and the given ones on held-out blocks.

    Args:
        configs: tokenizers to learn.
        given: opened tokenizers with their files.
        report: called with a phrase on each part of the work.

    Raises:
        CorpusError: there is nothing to learn from or to measure on.
    """
    if not learning or not held_out:
        raise CorpusError(
            "texts: too few to hold some out for measurement",
            field="texts",
            reason="EMPTY",
            limit="about 100 kB",
        )
    by_language = group_by_language(held_out)
    with tempfile.TemporaryDirectory() as folder:
        tokenizers = []
        for config in configs:
            home = Path(folder) / f"{config.kind}-{config.vocabulary}"
            report(f"learning {home.name}")
            save(learn((block.text for block in learning), config), config, home)
            tokenizers.append((open_tokenizer(home), home / TOKENIZER))
        tokenizers += given
        languages = {
            language: [measure(tokenizer, file, texts) for tokenizer, file in tokenizers]
            for language, texts in by_language.items()
        }
    totals = [total(parts) for parts in zip(*languages.values(), strict=True)]
    learned = sum(len(block.text.encode()) for block in learning)
    return Comparison(learned, {ALL: totals, **languages})


def _say(phrase: str) -> None:
    print(phrase, file=sys.stderr, flush=True)


def group_by_language(blocks: Sequence[Block]) -> dict[str, list[str]]:
    """Return the texts by language, identified where the document has none; most text first."""
    identify = LanguageIdentifier(languages=())
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for block in blocks:
        language = block.language
        if not language:
            found = identify(Document(Origin(""), block.text))
            language = found.language if isinstance(found, Document) else UNKNOWN_LANGUAGE
        groups[language].append(block.text)
    return dict(sorted(groups.items(), key=lambda group: (-sum(map(len, group[1])), group[0])))


def read_documents(paths: Sequence[Path]) -> Iterator[Document]:
    """Yield the texts of files and folders. Pages and rejected records are counted on stderr.

    Raises:
        CorpusError: a path is missing or of an unknown kind, or no file has a text.
    """
    # Imported here, because the options are described without the packages of the command.
    from training.corpus.sources.reading import read

    counts: Counter[str] = Counter()
    for path in paths:
        if not path.exists():
            raise CorpusError(f"texts: {path} is missing", field="texts", reason="MISSING")
        if path.is_file() and detect_kind(path) is None:
            allowed = ", ".join(ending for group in ENDINGS.values() for ending in group)
            raise CorpusError(
                f"texts: {path.name} has none of the endings {allowed}",
                field="texts",
                reason="UNSUPPORTED",
                limit=allowed,
            )
        source = SourceConfig("texts", path if path.is_dir() else path.parent)
        for file in source.list_files() if path.is_dir() else [path]:
            for item in read(source, file):
                counts[type(item).__name__] += 1
                if isinstance(item, Document):
                    yield item
    if skipped := counts.total() - counts[Document.__name__]:
        pages = skipped - counts[Rejected.__name__]
        print(
            f"{skipped:,} of {counts.total():,} records left out: {pages:,} pages without extracted"
            f" text, {skipped - pages:,} unreadable",
            file=sys.stderr,
        )
    if not counts[Document.__name__]:
        names = ", ".join(path.name for path in paths)
        raise CorpusError(f"texts: no text in {names}", field="texts", reason="EMPTY")
