"""The commands of docs/releasing.md, run with a skopeo that writes down its arguments."""

import os
import subprocess
from pathlib import Path

import pytest

from infra.machine.images.catalogue import ROOT
from tests.support.pages import blocks_of

DIGEST = f"sha256:{'1' * 64}"
SKOPEO = (
    '#!/bin/sh\nfor each; do last2="$last"; last="$each"; done\necho "$last2 $last" >> "$CALLS"\n'
)


@pytest.fixture
def release(tmp_path: Path) -> Path:
    folder = tmp_path / "dist" / "0.1.0"
    (folder / "images").mkdir(parents=True)
    (folder / "images" / "thumbwheel-services.tar").touch()
    (folder / "images.txt").write_text(
        f"registry.example/thumbwheel/thumbwheel-services@{DIGEST} 0.1.0\n"
        f"registry.example/thumbwheel/vllm/vllm-openai@{DIGEST} v0.32.0\n"
        "registry.example/thumbwheel/thumbwheel-small:0.1.0 0.1.0\n"
    )
    (tmp_path / "skopeo").write_text(SKOPEO)
    (tmp_path / "skopeo").chmod(0o755)
    return folder


def calls(word: str, folder: Path, home: Path) -> list[str]:
    """Run the block of the page that contains `word` and return the copies as source and target."""
    page = (ROOT / "docs/releasing.md").read_text()
    (block,) = [block.text for block in blocks_of(page) if word in block.text]
    environment = {**os.environ, "PATH": f"{home}:{os.environ['PATH']}", "CALLS": f"{home}/calls"}
    subprocess.run(["bash", "-euc", block], cwd=folder, env=environment, check=True)
    return (home / "calls").read_text().splitlines()


def test_archives_are_copied_to_the_registry(release: Path, tmp_path: Path) -> None:
    assert calls("oci-archive:", tmp_path, tmp_path) == [
        "oci-archive:images/thumbwheel-services.tar "
        "docker://registry.example/thumbwheel/thumbwheel-services:0.1.0",
        "oci-archive:thumbwheel-0.1.0-oci.tar "
        "docker://registry.example/thumbwheel/charts/thumbwheel:0.1.0",
    ]


def test_listed_images_are_copied_under_their_repository(release: Path, tmp_path: Path) -> None:
    target = "docker://registry.internal.example/thumbwheel"
    assert calls("images.txt", release, tmp_path) == [
        f"docker://registry.example/thumbwheel/thumbwheel-services@{DIGEST} "
        f"{target}/thumbwheel-services:0.1.0",
        f"docker://registry.example/thumbwheel/vllm/vllm-openai@{DIGEST} "
        f"{target}/vllm/vllm-openai:v0.32.0",
        "docker://registry.example/thumbwheel/thumbwheel-small:0.1.0 "
        f"{target}/thumbwheel-small:0.1.0",
    ]
