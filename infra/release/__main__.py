"""Build the images and the chart of a release into `dist/VERSION`.

Usage: `python -m infra.release --registry HOST/PATH --key KEY.pem`. docs/releasing.md describes the
files and how to publish them.
"""

import argparse
import datetime
import re
import sys
from pathlib import Path

from infra.machine.cluster.installation import install_clients, locate
from infra.machine.images.catalogue import read_catalogue
from infra.release.build import Options, build_release
from infra.release.errors import ReleaseError
from infra.release.provenance import Run
from infra.release.signing import read_key
from training.errors import DetailedError


def main() -> int:
    """Run the command and return its exit status."""
    options = _parser().parse_args()
    try:
        key = read_key(options.key) if options.key else None
        install_clients(_say)
        folder = build_release(
            Options(
                folder=options.folder,
                images=options.images,
                registry=options.registry,
                home=options.home,
                digests=dict(map(_named_digest, options.digest)),
                allow_modified=options.allow_modified,
                helm=locate().clients / "helm",
            ),
            Run(
                ["python", "-m", "infra.release", *_words_without_key(sys.argv[1:])],
                options.builder,
                datetime.datetime.now(datetime.UTC),
            ),
            key,
            _say,
        )
    except DetailedError as error:
        print(error.text, file=sys.stderr)
        return 1
    _say(f"written: {folder}")
    return 0


def _parser() -> argparse.ArgumentParser:
    images = sorted(read_catalogue().images)
    parser = argparse.ArgumentParser(prog="python -m infra.release", description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("dist"), help="default: dist")
    parser.add_argument(
        "--images", nargs="+", choices=images, default=images, help="default: all images"
    )
    parser.add_argument(
        "--registry", default="", help="imageRegistry of the chart, as host or host/path"
    )
    parser.add_argument("--home", default="", help="URL of the project in Chart.yaml")
    parser.add_argument(
        "--digest",
        action="append",
        default=[],
        metavar="NAME=sha256:…",
        help="digest of an image that is not built here (vllm)",
    )
    parser.add_argument(
        "--key", type=Path, help="private key (PEM, ECDSA P-256) that signs SHA256SUMS"
    )
    parser.add_argument(
        "--builder", default="urn:thumbwheel:builder:local", help="URI of the builder"
    )
    parser.add_argument(
        "--allow-modified", action="store_true", help="accept changes that no commit contains"
    )
    return parser


def _named_digest(text: str) -> tuple[str, str]:
    if not (found := re.fullmatch(r"(\w+)=(sha256:[0-9a-f]{64})", text)):
        raise ReleaseError(
            f"--digest: {text} is not NAME=sha256: and 64 hexadecimal digits",
            field="digest",
            limit="NAME=sha256:…",
        )
    return found[1], found[2]


def _words_without_key(words: list[str]) -> list[str]:
    """Return the words of the command, without the path of the key."""
    return [
        "…" if previous == "--key" else re.sub(r"^--key=.*", "--key=…", word)
        for previous, word in zip(["", *words], words, strict=False)
    ]


def _say(text: str) -> None:
    print(f"==> {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
