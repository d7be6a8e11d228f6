"""Built images: unprivileged user, read-only root, and all imports of every service."""

import gzip
import json
import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from infra.machine.evaluation_stores.layout import IMAGE
from infra.machine.images.build import build_image
from infra.machine.images.catalogue import ROOT, read_catalogue
from infra.machine.servers.binaries import ProgramPaths

CATALOGUE = read_catalogue()
MEGABYTE = 1_000_000
# Modules imported lazily.
MORE = {
    "predictor": ["openvino", "openvino_genai"],
    "services": ["pyarrow.parquet", "alembic", "services.chassis.mutual_tls"],
}
PROGRAM = """
import importlib, json, os, sys
for module in sys.argv[1:]:
    importlib.import_module(module)
packages = {module.split(".")[0] for module in sys.modules}
strangers = sorted(packages & {"infra", "tests", "torch", "training"})
own = [m for m in sys.modules.values() if (getattr(m, "__file__", "") or "").startswith("/app")]
compiled = [m.__cached__ for m in own
            if m.__file__.endswith(".py") and not os.path.exists(m.__cached__)]
try:
    open("/app/x", "w")
    writes = True
except OSError:
    writes = False
found = {"user": os.getuid(), "strangers": strangers, "compiled": compiled, "writes": writes}
print(json.dumps(found))
"""


def unpacked(archive: Path, folder: Path) -> dict[str, object]:
    """Unpack the files of an image into a folder and return its config."""
    with tarfile.open(archive) as tar:

        def read(name: str) -> bytes:
            return tar.extractfile(name).read()  # type: ignore[union-attr]

        def blob(digest: str) -> bytes:
            return read(f"blobs/sha256/{digest.removeprefix('sha256:')}")

        (entry,) = json.loads(read("index.json"))["manifests"]
        manifest = json.loads(blob(entry["digest"]))
        for layer in manifest["layers"]:
            subprocess.run(
                ["tar", "-x", "-C", folder],
                input=gzip.decompress(blob(layer["digest"])),
                check=True,
            )
        config: dict[str, object] = json.loads(blob(manifest["config"]["digest"]))["config"]
        return config


def name_the_clone(root: Path) -> list[str]:
    """Return the files that depend on the path of the clone."""
    found = subprocess.run(
        ["grep", "-rlF", str(ROOT), str(root)], capture_output=True, text=True, check=False
    )
    return found.stdout.splitlines()


def entrance(root: Path) -> list[str]:
    """Return a command prefix for the image's user.

    A separate /proc lets programs find the files next to their binary.
    """
    own = ["unshare", "--mount", "--pid", "--fork"]
    if os.getuid() == 0:
        return [*own, f"--mount-proc={root}/proc", "chroot", "--userspec", "10001:10001", str(root)]
    return [
        *own,
        "--user",
        "--map-user",
        "10001",
        "--map-group",
        "10001",
        "--root",
        str(root),
        "--mount-proc",
    ]


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("name", ["predictor", "services"])
def test_image_modules_import_as_an_unprivileged_user(name: str, tmp_path: Path) -> None:
    archive, root = tmp_path / "image.tar", tmp_path / "root"
    image = CATALOGUE.images[name]
    build_image(image, CATALOGUE, f"localhost/thumbwheel-{name}:test", archive, print)
    assert archive.stat().st_size < 250 * MEGABYTE
    root.mkdir()
    config = unpacked(archive, root)
    assert config["User"] == "10001:10001"
    assert name_the_clone(root) == []
    environment = dict(pair.split("=", 1) for pair in config["Env"])  # type: ignore[attr-defined]
    modules = [
        f"{'.'.join(path.parts)}.__main__"
        for path in image.paths
        if (ROOT / path / "__main__.py").exists()
    ]
    command = [*entrance(root), "/usr/local/bin/python3", "-c", PROGRAM, *modules, *MORE[name]]
    done = subprocess.run(
        command,
        env=environment | {"PATH": "/usr/sbin:/usr/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    # A user other than root who unpacked the image owns its files, also inside.
    mine = os.getuid() != 0
    found = json.loads(done.stdout)
    assert set(found.pop("strangers")) <= {path.parts[0] for path in image.paths}
    assert found == {"user": 10001, "compiled": [], "writes": mine}


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_store_programs_run_in_their_image_without_clients(
    tmp_path: Path,
) -> None:
    archive, root = tmp_path / "image.tar", tmp_path / "root"
    build_image(
        CATALOGUE.images["stores"], CATALOGUE, "localhost/thumbwheel-stores:test", archive, print
    )
    assert archive.stat().st_size < 250 * MEGABYTE
    root.mkdir()
    config = unpacked(archive, root)
    assert name_the_clone(root) == []
    environment = dict(pair.split("=", 1) for pair in config["Env"])  # type: ignore[attr-defined]
    programs = IMAGE.programs
    # The path found by this test contains the processor name, so another path is used inside.
    valkey = Path(
        "/", ProgramPaths(root / programs.packages.relative_to("/")).valkey.relative_to(root)
    )
    commands = [
        ["/usr/local/bin/python3", "-m", "infra.machine.evaluation_stores", "--help"],
        [str(programs.postgres / "initdb"), "--version"],
        ["/bin/sh", "-c", f"{programs.postgres / 'postgres'} --version"],
        [str(programs.postgres / "pg_isready"), "--version"],
        [str(programs.weed), "version"],
        [str(valkey), "--version"],
        [str(programs.jvm), "-version"],
    ]
    for command in commands:
        entered = [*entrance(root), *command]
        done = subprocess.run(
            entered,
            env=environment | {"PATH": "/usr/sbin:/usr/bin"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, (command, done.stderr)
    jars = (ROOT / "locks" / "kafka" / "jars.sha256").read_text().split()[1::2]
    assert sorted(jar.name for jar in (root / IMAGE.jars.relative_to("/")).iterdir()) == sorted(
        jars
    )
