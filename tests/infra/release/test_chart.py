"""The chart of a release: reproducible, with digests, and pulled from a registry by Helm."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from infra.machine.cluster.installation import locate
from infra.release.build import CHART
from infra.release.chart import (
    ChartInputs,
    image_references,
    package_chart,
    values_of_release,
    write_chart_archive,
)
from infra.release.errors import ReleaseError
from tests.charts.rendering import VALUES, containers, helm, parse
from tests.support.errors import refused
from tests.support.registry import Registry, registry

DIGESTS = {
    name: f"sha256:{number:064x}"
    for number, name in enumerate(("services", "predictor", "training", "small", "stores"), 1)
}
REGISTRY = "registry.example/releases"
EVIDENCE = {"sbom": "sbom/release.cdx.json sha256:00"}
INPUTS = ChartInputs(
    CHART, DIGESTS, REGISTRY, "https://thumbwheel.example", [("added", "a: b")], EVIDENCE
)
HELM = locate().clients / "helm"


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return package_chart(INPUTS, HELM, tmp_path_factory.mktemp("chart"))


@pytest.fixture
def served(package: Path, tmp_path: Path) -> Iterator[Registry]:
    with registry() as running:
        archive = tmp_path / "chart.tar"
        digest = write_chart_archive(package, f"{REGISTRY}/charts/thumbwheel:0.1.0", archive)
        assert running.add(archive, "charts/thumbwheel", "0.1.0") == digest
        yield running


def pull(served: Registry, target: Path) -> Path:
    """Pull the chart with Helm and return the folder of the unpacked chart."""
    reference = f"oci://{served.address}/charts/thumbwheel"
    options = ["--version", "0.1.0", "--plain-http", "--untar", "--destination", str(target)]
    done = helm("pull", reference, *options)
    assert done.returncode == 0, done.stderr
    return target / "thumbwheel"


def test_helm_pulls_and_renders_the_chart_with_its_digests(
    served: Registry, tmp_path: Path
) -> None:
    chart = pull(served, tmp_path)
    done = helm("template", "tw", str(chart), "-f", str(VALUES / "existing-values.yaml"))
    assert done.returncode == 0, done.stderr
    images = {each["image"] for each in containers(parse(done.stdout))}
    assert f"{REGISTRY}/thumbwheel-services@{DIGESTS['services']}" in images
    expected = {f"{REGISTRY}/thumbwheel-{name}@{digest}" for name, digest in DIGESTS.items()}
    assert images <= expected
    metadata = yaml.safe_load((chart / "Chart.yaml").read_text())
    assert (metadata["home"], metadata["sources"]) == (INPUTS.home, [INPUTS.home])
    annotations = metadata["annotations"]
    assert yaml.safe_load(annotations["artifacthub.io/changes"]) == [
        {"kind": "added", "description": "a: b"}
    ]
    assert annotations["thumbwheel/sbom"] == EVIDENCE["sbom"]
    listed = {each["image"] for each in yaml.safe_load(annotations["artifacthub.io/images"])}
    assert listed == expected | {f"{REGISTRY}/vllm/vllm-openai:v0.32.0"}


def test_a_changed_blob_is_refused_by_helm(served: Registry, tmp_path: Path) -> None:
    layer = max(served.blobs, key=lambda digest: len(served.blobs[digest]))
    content = bytearray(served.blobs[layer])
    content[len(content) // 2] ^= 1
    served.blobs[layer] = bytes(content)
    reference = f"oci://{served.address}/charts/thumbwheel"
    done = helm("pull", reference, "--version", "0.1.0", "--plain-http", "-d", str(tmp_path))
    assert done.returncode != 0
    assert [*tmp_path.glob("*.tgz")] == []


def test_equal_inputs_yield_equal_digests(package: Path, tmp_path: Path) -> None:
    # Another folder with other times: neither may have an effect.
    copied = tmp_path / "elsewhere" / CHART.name
    shutil.copytree(CHART, copied, copy_function=shutil.copyfile)
    (tmp_path / "again").mkdir()
    again = package_chart(replace(INPUTS, folder=copied), HELM, tmp_path / "again")
    assert again.read_bytes() == package.read_bytes()
    digests = [
        write_chart_archive(each, "localhost/charts/thumbwheel:0.1.0", tmp_path / f"{number}.tar")
        for number, each in enumerate((package, again))
    ]
    assert digests[0] == digests[1]
    assert (tmp_path / "0.tar").read_bytes() == (tmp_path / "1.tar").read_bytes()


def test_values_keep_comments_and_change_only_registry_and_digests() -> None:
    text = (CHART / "values.yaml").read_text()
    changed = values_of_release(text, DIGESTS, REGISTRY)
    lines = [
        (old, new)
        for old, new in zip(text.splitlines(), changed.splitlines(), strict=True)
        if old != new
    ]
    assert len(lines) == 1 + len(DIGESTS)
    before, after = yaml.safe_load(text), yaml.safe_load(changed)
    assert after["imageRegistry"] == REGISTRY
    assert {name: after["images"][name]["digest"] for name in DIGESTS} == DIGESTS
    for values in (before, after):
        values["imageRegistry"] = ""
        for image in values["images"].values():
            image["digest"] = ""
    assert before == after


def test_an_unknown_image_is_refused() -> None:
    with refused(ReleaseError, field="images.unknown.digest", reason="MALFORMED"):
        values_of_release("images:\n  services: {digest: ''}\n", {"unknown": "sha256:0"}, "")


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ({}, ("all.example/app:1.0", "1.0")),
        ({"registry": "own.example"}, ("own.example/app:1.0", "1.0")),
        ({"digest": "sha256:0", "tag": "2"}, ("all.example/app@sha256:0", "2")),
    ],
)
def test_references_follow_the_rules_of_the_chart(
    image: dict[str, Any], expected: tuple[str, str]
) -> None:
    values = {"imageRegistry": "all.example", "images": {"app": {"repository": "app", **image}}}
    assert image_references(values, "1.0") == {"app": expected}
