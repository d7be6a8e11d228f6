"""`python -m training tokenizer train | compare | show`: what it takes, and what it does.

The tokenizers that a comparison makes are of the moment: they lie in a folder that goes with it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from training.data.corpus import TEXTS_HELP, TextError, check_unicode
from training.data.seeds import is_held_out
from training.tokenization.comparison import measure, table
from training.tokenization.learning import Kind, TokenizerConfig, learn, make_directory, save
from training.tokenization.opened import open_tokenizer
from training.tokenization.page import MOST_CHARACTERS, Shown, write_page
from training.tokenization.reading import TextFiles
from training.tokenization.splitting import Split
from training.tokenization.watching import Watched

VOCABULARIES = (4096, 16_384)
SPLIT_SEED = 20_261_126
HELD_OUT_SHARE = 0.1
# once for each tokenizer; a token takes some 100 bytes of the page, and may be a character
COMPARED_CHARACTERS = 2_000
SHORT = {Kind.BYTE_PAIRS: "bpe", Kind.WORDS: "word", Kind.CHARACTERS: "char"}
SHOW_USAGE = "%(prog)s (FILE | --text TEXT) DIR [DIR ...] --page FILE"
MERGING = "counting pairs and merging"


def describe(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], code_commit: Callable[[], str]
) -> None:
    """Add `tokenizer` to the commands of `python -m training`. `code_commit` is asked when
    something is made.
    """
    verbs = commands.add_parser(
        "tokenizer", help="train, compare and show tokenizers"
    ).add_subparsers(required=True)
    texts = argparse.ArgumentParser(add_help=False)
    texts.add_argument("texts", type=Path, nargs="+", metavar="TEXTS", help=TEXTS_HELP)
    train = verbs.add_parser("train", parents=[texts], help="learn a tokenizer from texts")
    train.add_argument("--vocabulary", type=int, required=True, metavar="N", help="tokens at most")
    train.add_argument("--output", type=Path, required=True, metavar="DIR")
    train.add_argument("--kind", type=Kind, choices=list(Kind), default=Kind.BYTE_PAIRS)
    train.add_argument(
        "--split",
        type=Split,
        choices=list(Split),
        default=Split.GPT4,
        help="what no byte pair crosses",
    )
    train.set_defaults(command=lambda options: _train(options, code_commit()))
    compare = verbs.add_parser(
        "compare", parents=[texts], help="byte pairs, words and characters on held-out text"
    )
    compare.add_argument(
        "--vocabulary",
        type=_sizes,
        default=VOCABULARIES,
        metavar="N,N",
        help="sizes to learn (4096,16384)",
    )
    compare.add_argument(
        "--held-out",
        type=_share,
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
        help="one more, which should not know the texts yet; may be repeated",
    )
    compare.add_argument(
        "--page", type=Path, metavar="FILE", help="the table, and how held-out text splits, as HTML"
    )
    compare.set_defaults(command=_compare)
    show = verbs.add_parser("show", help="a page of how a text splits", usage=SHOW_USAGE)
    show.add_argument(
        "places",
        type=Path,
        nargs="+",
        metavar="DIR",
        help="tokenizers; without --text, after the FILE to split",
    )
    show.add_argument("--text", help="the text itself")
    show.add_argument("--page", type=Path, required=True, metavar="FILE")
    show.set_defaults(command=_show)


def _train(options: argparse.Namespace, code_commit: str) -> int:
    files = TextFiles(options.texts)
    config = TokenizerConfig(options.vocabulary, options.kind, options.split)
    watched = Watched(files, options.output.name, MERGING, sys.stderr)
    manifest = make_directory(files, watched, config, options.output, code_commit)
    size = manifest.report["vocabulary"]
    fewer = (
        "" if size == config.vocabulary else f" of {config.vocabulary:,}, as the texts have no more"
    )
    print(f"{manifest.version} is in {options.output}: {size:,} tokens{fewer}")
    return 0


def _compare(options: argparse.Namespace) -> int:
    files, share = TextFiles(options.texts), options.held_out
    sizes = sorted(set(options.vocabulary))
    configs = [
        TokenizerConfig(size, kind) for kind in (Kind.BYTE_PAIRS, Kind.WORDS) for size in sizes
    ]
    configs.append(TokenizerConfig(sizes[-1], Kind.CHARACTERS))
    given = [
        open_tokenizer(directory) for directory in options.tokenizer
    ]  # what is wrong with them shows at once
    with tempfile.TemporaryDirectory() as folder:
        made = [Path(folder) / f"{SHORT[config.kind]}-{config.vocabulary}" for config in configs]
        for config, directory in zip(configs, made, strict=True):
            watched = Watched(files, directory.name, MERGING, sys.stderr)
            save(learn(_side(watched, share, held_out=False), config), config, directory)
        tokenizers = [*(open_tokenizer(directory) for directory in made), *given]
        measured = [
            measure(
                tokenizer,
                directory,
                _side(Watched(files, f"on {tokenizer.name}", "", sys.stderr), share, True),
            )
            for tokenizer, directory in zip(tokenizers, [*made, *options.tokenizer], strict=True)
        ]
    print(table(measured))
    if options.page:
        text = "\n".join(_until(_side(files, share, held_out=True), COMPARED_CHARACTERS + 1))
        write_page(
            options.page, _shown(text, "Held-out text", COMPARED_CHARACTERS), tokenizers, measured
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
        shown = _shown(_beginning(file), file.name)
    else:
        directories = options.places
        shown = _shown(check_unicode(options.text, "text"), "The text given")
    if not directories:
        raise TextError(
            "places: no tokenizer's directory after the file", field="places", reason="MISSING"
        )
    if not shown.text:
        raise TextError("text: empty", field="text", reason="EMPTY")
    write_page(options.page, shown, [open_tokenizer(directory) for directory in directories])
    print(f"the page is {options.page}")
    return 0


def _side(texts: Iterable[str], share: float, held_out: bool) -> Iterator[str]:
    """The texts to measure on, or those to learn from.

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
            f"held-out: a share of {share:g} leaves no text {'to measure on' if held_out else 'to learn from'}",
            field="held-out",
            reason="EMPTY",
        )


def _until(texts: Iterable[str], characters: int) -> Iterator[str]:
    for text in texts:
        yield text
        characters -= len(text)
        if characters <= 0:
            return


def _beginning(file: Path) -> str:
    """As much of it as a page holds; of .jsonl the first text."""
    texts = iter(TextFiles([file]))
    return next(texts) if file.suffix == ".jsonl" else "".join(_until(texts, MOST_CHARACTERS + 1))


def _shown(text: str, source: str, most: int = MOST_CHARACTERS) -> Shown:
    return Shown(text[:most], source, whole=len(text) <= most)


def _sizes(text: str) -> list[int]:
    try:
        return [int(size) for size in text.split(",")]
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"{text} is no list of sizes such as 4096,16384"
        ) from error


def _share(text: str) -> float:
    share = float(text)
    if not 0 < share <= 0.5:
        raise argparse.ArgumentTypeError(f"{text} is not above 0 and at most 0.5")
    return share
