"""Commands of `thumbwheel train tokenizer`: train, compare and show.

Tokenizers trained for a comparison are temporary.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from training.data.corpus import TEXTS_HELP, TextError, check_unicode, skipped_text
from training.data.seeds import is_held_out
from training.recipes.tokenizer.learning import make_directory
from training.recipes.tokenizer.page import MAX_CHARACTERS, SampleText, write_page
from training.recipes.tokenizer.text_files import ProgressReader, TextFiles
from training.tokenization.byte_pairs import TOKENIZER, Split
from training.tokenization.comparison import measure, parse_sizes, table
from training.tokenization.learning import TokenizerConfig, TokenKind, learn, save
from training.tokenization.text_tokenizer import open_tokenizer

VOCABULARIES = (4096, 16_384)
SPLIT_SEED = 20_261_126
HELD_OUT_SHARE = 0.1
# Length of the text shown per tokenizer. A token may be one character and takes about 100 bytes of
# the page.
COMPARED_CHARACTERS = 2_000
SHORT_NAMES = {
    TokenKind.BYTE_PAIRS: "bpe",
    TokenKind.WORDS: "word",
    TokenKind.WORDS_AND_MARKS: "word-mark",
    TokenKind.CHARACTERS: "char",
}
SHOW_USAGE = "%(prog)s (FILE | --text TEXT) DIR [DIR ...] --page FILE"
MERGING_LABEL = "counting pairs and merging"


def describe(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], code_commit: Callable[[], str]
) -> None:
    """Add `tokenizer` to the commands of `thumbwheel train`.

    `code_commit` is called only when a command writes a manifest.
    """
    verbs = commands.add_parser("tokenizer").add_subparsers(required=True)
    texts = argparse.ArgumentParser(add_help=False)
    texts.add_argument("texts", type=Path, nargs="+", metavar="TEXTS", help=TEXTS_HELP)
    train = verbs.add_parser("train", parents=[texts], help="learn a tokenizer from texts")
    train.add_argument(
        "--vocabulary", type=int, required=True, metavar="N", help="maximum number of tokens"
    )
    train.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help="new folder of the tokenizer"
    )
    train.add_argument(
        "--kind",
        type=TokenKind,
        choices=list(TokenKind),
        default=TokenKind.BYTE_PAIRS,
        help="unit of a token (default: byte-pairs)",
    )
    train.add_argument(
        "--split",
        type=Split,
        choices=list(Split),
        default=Split.GPT4,
        help="pre-tokenization; no token crosses a piece boundary (default: gpt4)",
    )
    train.set_defaults(command=lambda options: _train(options, code_commit()))
    _add_compare(verbs, texts)
    show = verbs.add_parser("show", help="write a page with the tokens of a text", usage=SHOW_USAGE)
    show.add_argument(
        "places",
        type=Path,
        nargs="+",
        metavar="DIR",
        help="folders of tokenizers; without --text the first is the FILE to split",
    )
    show.add_argument("--text", metavar="TEXT", help="text to split")
    show.add_argument("--page", type=Path, required=True, metavar="FILE", help="HTML page to write")
    show.set_defaults(command=_show)


def _add_compare(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser], texts: argparse.ArgumentParser
) -> None:
    compare = verbs.add_parser(
        "compare", parents=[texts], help="byte pairs, words and characters on held-out text"
    )
    compare.add_argument(
        "--vocabulary",
        type=parse_sizes,
        default=VOCABULARIES,
        metavar="N,N",
        help="sizes to learn (default: 4096,16384)",
    )
    compare.add_argument(
        "--held-out",
        type=_parse_share,
        default=HELD_OUT_SHARE,
        metavar="0..0.5",
        help="share of the texts",
    )
    compare.add_argument(
        "--tokenizer",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="an additional tokenizer, not trained on these texts; may be repeated",
    )
    compare.add_argument(
        "--page",
        type=Path,
        metavar="FILE",
        help="write the table and the tokens of a held-out text as HTML",
    )
    compare.set_defaults(command=_compare)


def _open_texts(paths: Sequence[Path]) -> TextFiles:
    files = TextFiles(paths)
    if skipped := skipped_text(paths):
        print(skipped, file=sys.stderr)
    return files


def _train(options: argparse.Namespace, code_commit: str) -> int:
    files = _open_texts(options.texts)
    config = TokenizerConfig(options.vocabulary, options.kind, options.split)
    reader = ProgressReader(files, options.output.name, MERGING_LABEL, sys.stderr)
    manifest = make_directory(files, reader, config, options.output, code_commit)
    size = manifest.report["vocabulary"]
    fewer = (
        ""
        if size == config.vocabulary
        else f" of {config.vocabulary:,}; the texts have no more pairs"
    )
    print(f"{manifest.version} is in {options.output}: {size:,} tokens{fewer}")
    return 0


def _compare(options: argparse.Namespace) -> int:
    files, share = _open_texts(options.texts), options.held_out
    sizes = sorted(set(options.vocabulary))
    configs = [
        TokenizerConfig(size, kind)
        for kind in (TokenKind.BYTE_PAIRS, TokenKind.WORDS)
        for size in sizes
    ]
    configs.append(TokenizerConfig(sizes[-1], TokenKind.CHARACTERS))
    # Open given tokenizers first, so that errors appear before the training.
    given = [open_tokenizer(directory) for directory in options.tokenizer]
    with tempfile.TemporaryDirectory() as folder:
        made = [
            Path(folder) / f"{SHORT_NAMES[config.kind]}-{config.vocabulary}" for config in configs
        ]
        for config, directory in zip(configs, made, strict=True):
            reader = ProgressReader(files, directory.name, MERGING_LABEL, sys.stderr)
            save(learn(_split_texts(reader, share, held_out=False), config), config, directory)
        tokenizers = [*(open_tokenizer(directory) for directory in made), *given]
        measured = [
            measure(
                tokenizer,
                directory / TOKENIZER,
                _split_texts(
                    ProgressReader(files, f"on {tokenizer.name}", "", sys.stderr), share, True
                ),
            )
            for tokenizer, directory in zip(tokenizers, [*made, *options.tokenizer], strict=True)
        ]
    print(table(measured))
    if options.page:
        text = "\n".join(
            _limited(_split_texts(files, share, held_out=True), COMPARED_CHARACTERS + 1)
        )
        write_page(
            options.page,
            _sample_text(text, "Held-out text", COMPARED_CHARACTERS),
            tokenizers,
            measured,
        )
        print(f"the page is {options.page}")
    return 0


def _show(options: argparse.Namespace) -> int:
    if options.text is None:
        file, *directories = options.places
        if file.is_dir():
            raise TextError(
                "places: needs a FILE before the directories, or --text",
                field="places",
                reason="WRONG_TYPE",
            )
        # As much text as fits on a page; for .jsonl the first text.
        texts = iter(TextFiles([file]))
        text = (
            next(texts) if file.suffix == ".jsonl" else "".join(_limited(texts, MAX_CHARACTERS + 1))
        )
        shown = _sample_text(text, file.name)
    else:
        directories = options.places
        shown = _sample_text(check_unicode(options.text, "text"), "The text given")
    if not directories:
        raise TextError(
            "places: no tokenizer's directory after the file", field="places", reason="MISSING"
        )
    if not shown.text:
        raise TextError("text: empty", field="text", reason="EMPTY")
    write_page(options.page, shown, [open_tokenizer(directory) for directory in directories])
    print(f"the page is {options.page}")
    return 0


def _split_texts(texts: Iterable[str], share: float, held_out: bool) -> Iterator[str]:
    """Yield the held-out texts or the remaining ones.

    Raises:
        TextError: there are none.
    """
    found = False
    for text in texts:
        if is_held_out(text, share, SPLIT_SEED) == held_out:
            found = True
            yield text
    if not found:
        raise TextError(
            f"held-out: a share of {share:g} leaves no text"
            f" {'to measure on' if held_out else 'to learn from'}",
            field="held-out",
            reason="EMPTY",
        )


def _limited(texts: Iterable[str], characters: int) -> Iterator[str]:
    for text in texts:
        yield text
        characters -= len(text)
        if characters <= 0:
            return


def _sample_text(text: str, source: str, max_characters: int = MAX_CHARACTERS) -> SampleText:
    return SampleText(text[:max_characters], source, whole=len(text) <= max_characters)


def _parse_share(text: str) -> float:
    share = float(text)
    if not 0 < share <= 0.5:
        raise argparse.ArgumentTypeError(f"{text} is not above 0 and at most 0.5")
    return share
