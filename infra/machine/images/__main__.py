"""Build images without Docker, as archives for containerd, podman and registries.

Usage: `python -m infra.machine.images build services predictor --folder DIR`. For Docker or Podman,
`python -m infra.machine.images containerfile` writes the same images as a Containerfile.
"""

import argparse
import sys
import time
from pathlib import Path

from infra.machine.images.build import build_image
from infra.machine.images.catalogue import Catalogue, read_catalogue
from infra.machine.images.containerfile import render


def main() -> int:
    """Run a command and return its exit status."""
    catalogue = read_catalogue()
    parser = argparse.ArgumentParser(prog="python -m infra.machine.images", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    build = commands.add_parser("build", help="write image archives")
    build.add_argument(
        "names",
        nargs="+",
        choices=sorted(catalogue.images),
        metavar="IMAGE",
        help=", ".join(catalogue.images),
    )
    build.add_argument(
        "--folder", type=Path, default=Path("dist"), help="output folder (default: dist)"
    )
    build.add_argument(
        "--repository", default="localhost/thumbwheel", help="prefix of image references"
    )
    build.add_argument("--tag", default="dev")
    written = commands.add_parser("containerfile", help="write Containerfile and .dockerignore")
    written.add_argument(
        "--check", action="store_true", help="compare only; exit status 1 if a file is stale"
    )
    options = parser.parse_args()
    return (
        _build(catalogue, options)
        if options.command == "build"
        else _containerfile(catalogue, options.check)
    )


def _build(catalogue: Catalogue, options: argparse.Namespace) -> int:
    options.folder.mkdir(parents=True, exist_ok=True)
    for name in options.names:
        started = time.monotonic()
        reference, path = (
            f"{options.repository}-{name}:{options.tag}",
            options.folder / f"{name}.tar",
        )
        digest = build_image(catalogue.images[name], catalogue, reference, path, _say)
        _say(
            f"{reference} {digest}: {path}, {path.stat().st_size / 1e6:.0f} MB, "
            f"{time.monotonic() - started:.0f} s"
        )
    return 0


def _containerfile(catalogue: Catalogue, check: bool) -> int:
    stale = {
        path: text
        for path, text in render(catalogue).items()
        if not path.exists() or path.read_text() != text
    }
    for path, text in stale.items():
        if check:
            print(
                f"{path.name} does not match infra/machine/images/images.toml; "
                "run: python -m infra.machine.images containerfile"
            )
        else:
            path.write_text(text)
    return int(check and bool(stale))


def _say(text: str) -> None:
    print(f"==> {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
