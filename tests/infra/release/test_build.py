"""A release as a whole, without the images, whose build needs minutes."""

import datetime
import hashlib
import json
import subprocess
from pathlib import Path

import pytest

from infra.machine.cluster.installation import locate
from infra.machine.images.build import built_image
from infra.machine.images.catalogue import ROOT, read_catalogue
from infra.release.build import Options, build_release
from infra.release.errors import ReleaseError
from infra.release.provenance import Run, source_of
from tests.support.errors import refused

RUN = Run(["python", "-m", "infra.release"], "urn:test", datetime.datetime.now(datetime.UTC))
VLLM = f"sha256:{'1' * 64}"


def silent(text: str) -> None:
    """Discard a message of the build."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    options = Options(
        folder=tmp_path_factory.mktemp("dist"),
        images=[],
        helm=locate().clients / "helm",
        registry="registry.example",
        digests={"vllm": VLLM},
        allow_modified=True,
    )
    written = build_release(options, RUN, None, silent)
    with refused(ReleaseError, field="folder", reason="EXISTS"):
        build_release(options, RUN, None, silent)
    return written


def test_images_are_listed_with_digest_or_tag(folder: Path) -> None:
    lines = (folder / "images.txt").read_text().splitlines()
    assert f"registry.example/vllm/vllm-openai@{VLLM} v0.32.0" in lines
    version = folder.name
    assert f"registry.example/thumbwheel-services:{version} {version}" in lines


def test_provenance_names_commit_inputs_and_all_files(folder: Path) -> None:
    found = json.loads((folder / "provenance.json").read_text())
    subjects = {each["name"]: each["digest"]["sha256"] for each in found["subject"]}
    files = {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in {"provenance.json", "SHA256SUMS"}
    }
    assert subjects.items() >= files.items()
    definition = found["predicate"]["buildDefinition"]
    inputs = {each["name"]: each["digest"] for each in definition["resolvedDependencies"]}
    commit = subprocess.run(
        ["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    )
    assert inputs["git"] == {"gitCommit": commit.stdout.strip()}
    lock = (ROOT / "locks" / "dev.txt").read_bytes()
    assert inputs["locks/dev.txt"] == {"sha256": hashlib.sha256(lock).hexdigest()}
    assert found["predicate"]["runDetails"]["builder"] == {"id": "urn:test"}


def test_a_modified_clone_is_refused(tmp_path: Path) -> None:
    with refused(ReleaseError, field="commit", reason="MISSING"):
        source_of(tmp_path, allow_modified=False)
    for words in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "first"]):
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.com"]
        subprocess.run(["git", *identity, "-C", str(tmp_path), *words], check=True)
    assert not source_of(tmp_path, allow_modified=False).modified
    (tmp_path / "new").touch()
    with refused(ReleaseError, field="commit", reason="MODIFIED"):
        source_of(tmp_path, allow_modified=False)
    assert source_of(tmp_path, allow_modified=True).modified


@pytest.mark.long
@pytest.mark.timeout(400)
def test_layers_built_twice_are_equal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Two empty caches: the layers of the interpreter and of the code are made twice.
    catalogue = read_catalogue()
    digests = set()
    for name in ("first", "second"):
        monkeypatch.setenv("THUMBWHEEL_CACHE", str(tmp_path / name))
        with built_image(catalogue.images["predictor"], catalogue, silent, bare=True) as image:
            digests.add(image.digest)
    assert len(digests) == 1
