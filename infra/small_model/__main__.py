"""`python -m infra.small_model --into .state/models` installs the small model; MODEL= is taken by --model."""

import argparse
import sys
import time
from pathlib import Path

from infra.small_model.errors import ModelError
from infra.small_model.installation import install_base
from infra.small_model.resolve import SMALL, announce, resolve_model


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m infra.small_model", description=__doc__)
    parser.add_argument("--into", type=Path, required=True, help="folder of model directories")
    parser.add_argument("--model", default=SMALL, help="small, a directory or a hub id in safetensors")
    parser.add_argument("--base", action="store_true", help="the base without our adapter, to train on")
    arguments = parser.parse_args()
    started = time.monotonic()
    try:
        folder = (
            install_base(arguments.into, announce) if arguments.base else resolve_model(arguments.model, arguments.into)
        )
    except ModelError as error:
        sys.exit(f"==> {error}")
    announce(f"{folder} is there after {time.monotonic() - started:.1f} s")


if __name__ == "__main__":
    main()
