"""Build of images from layers.

The layers of the interpreter and of the packages are cached per set of locks. The layer of
Thumbwheel's code is built every time.

Packages are stored with compiled bytecode, because the root of a container is read-only and stores
none; Ray starts three times as fast with bytecode. The bytecode is unchecked, because modification
times in a layer carry no information.
"""

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TypeAlias

from infra.install.environment import atomic_folder, cache
from infra.machine.images import interpreter
from infra.machine.images.archive import ImageDescription, describe, write_archive
from infra.machine.images.catalogue import ROOT, Catalogue, Image
from infra.machine.images.layer import Blob, Layer, LayerWriter
from infra.machine.servers.errors import ServerError
from infra.machine.servers.installation import install_jars, install_wheels, locate

Say: TypeAlias = Callable[[str], None]
APP = "/app"
# dill, with which datasets hashes functions, takes modules elsewhere for the code of the user and
# pickles their contents.
SITE = f"{APP}/site-packages"
JARS = f"{APP}/jars"
BUBBLEWRAP = "bwrap"
ENVIRONMENT = {
    "HOME": "/tmp",  # noqa: S108 - the only writable folder
    "PATH": f"{interpreter.PREFIX}/bin:/usr/bin:/bin",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONPATH": f"{SITE}:{APP}:{APP}/gen",
    "PYTHONUNBUFFERED": "1",
}
# Trust store of Python's TLS and of asyncpg, since the image contains no system trust store. A
# trust bundle in the chart overrides the variables.
TRUST = dict.fromkeys(("PGSSLROOTCERT", "SSL_CERT_FILE"), f"{SITE}/certifi/cacert.pem")
# Sources that determine the cached layers. A change invalidates the cache.
LAYER_SOURCES = tuple(
    Path(__file__).with_name(f"{name}.py") for name in ("build", "interpreter", "layer")
)


def build_image(image: Image, catalogue: Catalogue, reference: str, path: Path, say: Say) -> str:
    """Write the archive and return the digest of its manifest."""
    with built_image(image, catalogue, say) as described:
        write_archive(path, reference, described)
        return described.digest


@contextmanager
def built_image(
    image: Image, catalogue: Catalogue, say: Say, *, bare: bool = False
) -> Iterator[ImageDescription]:
    """Build the layers of an image and yield its description, valid within the block.

    Args:
        bare: omit the packages of the locks, for pods with the packages on a volume; the packages
            of training are six gigabytes.
    """
    with tempfile.TemporaryDirectory() as folder:
        layers = [_cached_layer("base", b"", interpreter.write_interpreter, say)]
        if image.programs or image.scripts:
            chosen = repr((image.programs, image.scripts)).encode()
            layers.append(
                _cached_layer(
                    f"{image.name}-programs", chosen, partial(_write_programs, image=image), say
                )
            )
        if not bare:
            locks = b"".join((ROOT / lock).read_bytes() for lock in locks_of(image))
            omitted = repr(catalogue.omitted_patterns(image)).encode()
            write = partial(_write_packages, image=image, catalogue=catalogue, say=say)
            layers.append(_cached_layer(image.name, locks + omitted, write, say))
        layers.append(_code(image, Path(folder)))
        yield describe(layers, config_of(image))


def locks_of(image: Image) -> Sequence[Path]:
    """Return the files of the clone that determine the third-party content of the image."""
    return [
        *image.locks,
        *([image.jars / "pom.xml", image.jars / "jars.sha256"] if image.jars else []),
    ]


def config_of(image: Image) -> dict[str, object]:
    """Return the `config` object of the image-spec."""
    return {
        "User": f"{interpreter.USER}:{interpreter.USER}",
        "Env": [
            f"{name}={value}" for name, value in {**ENVIRONMENT, **trust_variables(image)}.items()
        ],
        "WorkingDir": APP,
        "Entrypoint": ["python3", "-m"],
        "Cmd": [image.module],
        "Labels": labels_of(image),
    }


def trust_variables(image: Image) -> Mapping[str, str]:
    """Return trust variables, for images whose locks contain certifi.

    Other images call no external servers.
    """
    locked = "".join((ROOT / lock).read_text() for lock in image.locks)
    return TRUST if "\ncertifi==" in locked else {}


def labels_of(image: Image) -> dict[str, str]:
    """Return the labels defined by the image-spec."""
    title = "org.opencontainers.image"
    return {f"{title}.title": f"thumbwheel-{image.name}", f"{title}.description": image.about}


def _write_programs(writer: LayerWriter, image: Image) -> None:
    programs = [find_program(name) for name in image.programs]
    for program in programs:
        writer.file(program, f"/usr/bin/{program.name}")
    if any(program.name == "bash" for program in programs):
        writer.link("/bin/bash", "/usr/bin/bash")
        writer.link("/bin/sh", "/usr/bin/bash")
    for name, function in image.scripts.items():
        writer.data(f"{interpreter.PREFIX}/bin/{name}", script(function).encode(), 0o755)
    interpreter.write_libraries(writer, programs)


def find_program(name: str) -> Path:
    """Return a program of this machine; bubblewrap is in the cache of `infra.machine.servers`.

    Raises:
        ServerError: the program is missing.
    """
    path = str(locate().bubblewrap) if name == BUBBLEWRAP else name
    if not (found := shutil.which(path)):
        raise ServerError(
            f"the image needs {name}, and {path} is missing; "
            "run: python -m infra.machine.servers install",
            field=name,
            reason="MISSING",
        )
    return Path(found).resolve()


def script(function: str) -> str:
    """Return the text of a console script.

    A script written by pip would name the Python interpreter of the build machine.
    """
    module, name = function.split(":")
    return (
        f"#!{interpreter.PREFIX}/bin/python3\nimport sys\n"
        f"from {module} import {name}\nsys.exit({name}())\n"
    )


def _write_packages(writer: LayerWriter, image: Image, catalogue: Catalogue, say: Say) -> None:
    with tempfile.TemporaryDirectory() as folder:
        locks = [ROOT / lock for lock in image.locks]
        install_packages(locks, Path(folder), catalogue.omitted_patterns(image))
        writer.tree(Path(folder), SITE)
    if image.jars:
        writer.tree(install_jars(say), JARS)


def _code(image: Image, folder: Path) -> Layer:
    copied = folder / "code"
    for path in image.paths:
        (copied / path).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / path).is_dir():
            shutil.copytree(
                ROOT / path, copied / path, ignore=shutil.ignore_patterns("__pycache__")
            )
        else:
            shutil.copyfile(ROOT / path, copied / path)
    compile_folder(copied, APP)
    with LayerWriter(folder / "code.tar.gz") as writer:
        writer.tree(copied, APP)
    return writer.layer


def _cached_layer(
    name: str, inputs: bytes, write: Callable[[LayerWriter], None], say: Say
) -> Layer:
    """Return a layer from the cache; create the layer if missing."""
    digest = hashlib.sha256(interpreter.VERSION.encode() + inputs)
    for path in LAYER_SOURCES:
        digest.update(path.read_bytes())
    home = cache() / "images" / f"{name}-{digest.hexdigest()[:16]}"
    if not home.exists():
        say(f"making the layer {name}")
        with atomic_folder(home) as folder:
            with LayerWriter(folder / "layer.tar.gz") as writer:
                write(writer)
            made = writer.layer
            facts = {"sha256": made.blob.sha256, "size": made.blob.size, "diff_id": made.diff_id}
            (folder / "layer.json").write_text(json.dumps(facts))
    facts = json.loads((home / "layer.json").read_text())
    return Layer(Blob(home / "layer.tar.gz", facts["sha256"], facts["size"]), facts["diff_id"])


def install_packages(locks: Sequence[Path], folder: Path, without: Sequence[str]) -> None:
    """Install the locks into a folder, remove the matching files, and compile."""
    install_wheels(locks, folder)
    for pattern in without:
        for found in sorted(folder.glob(pattern)):
            shutil.rmtree(found) if found.is_dir() else found.unlink()
    compile_folder(folder, SITE)


def compile_folder(folder: Path, place: str) -> None:
    """Compile all modules, with their paths in the image recorded in the bytecode.

    Compile errors are ignored: the packages contain templates and test data that are not valid
    Python.
    """
    command = [
        sys.executable,
        "-m",
        "compileall",
        "-q",
        "-f",
        "--invalidation-mode",
        "unchecked-hash",
    ]
    subprocess.run(
        [*command, "-s", str(folder), "-p", place, str(folder)],
        check=False,
        stdout=subprocess.DEVNULL,
    )
