"""Components of layers, their licences, and SBOMs by CycloneDX's own schema."""

import datetime
import hashlib
import importlib.metadata
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from infra.machine.images.build import JARS, SITE
from infra.machine.images.catalogue import ROOT, read_catalogue
from infra.machine.images.layer import LayerWriter
from infra.release.build import require_licences
from infra.release.components import Component, components_of, locked_digests, package_component
from infra.release.errors import ReleaseError
from infra.release.licences import is_expression, read_policy, requires_copyleft
from infra.release.sbom import DIGEST_PROPERTY, image_bom, release_bom
from tests.support.errors import refused

POLICY = read_policy()
SERVICES = read_catalogue().images["services"]
LOCKED = locked_digests(ROOT / lock for lock in SERVICES.locks)
NAME, VERSION = next(iter(key for key in LOCKED if key[0] == "aiohttp"))
TIME = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
DIGEST = f"sha256:{'1' * 64}"


def metadata(name: str, version: str, licence: str = "License-Expression: MIT") -> bytes:
    return f"Metadata-Version: 2.4\nName: {name}\nVersion: {version}\n{licence}\n\nText\n".encode()


def layer(folder: Path, version: str = VERSION) -> Path:
    """Write a layer with a package, a jar, a library of no Debian package, and other files."""
    place = f"{SITE}/Aiohttp-{version}.dist-info"
    with LayerWriter(folder / "layer.tar.gz") as writer:
        writer.data(f"{place}/METADATA", metadata("Aiohttp", version))
        writer.data(f"{place}/licenses/METADATA", b"no metadata")
        writer.data(f"{JARS}/log4j-api-2.25.4.jar", b"jar")
        writer.data(f"{JARS}/scala-logging_2.13-3.9.6.jar", b"scala")
        writer.data("/lib/x86_64-linux-gnu/libabsent.so.1", b"library")
    return folder / "layer.tar.gz"


@pytest.fixture
def found(tmp_path: Path) -> dict[str, Component]:
    listed = components_of(SERVICES, [layer(tmp_path)], POLICY)
    return {each.name: each for each in listed if each.kind != "npm"}


def test_components_are_read_from_layers(found: dict[str, Component]) -> None:
    assert sorted(found) == [
        "aiohttp",
        "libabsent.so.1",
        "log4j-api",
        "python",
        "scala-logging_2.13",
    ]
    assert found["aiohttp"] == Component("python", NAME, VERSION, "MIT", found["aiohttp"].digests)
    assert set(found["aiohttp"].digests) == set(LOCKED[NAME, VERSION])
    assert f"sha256:{found['aiohttp'].digests[0]}" in (ROOT / "locks" / "services.txt").read_text()
    digest = hashlib.sha256(b"jar").hexdigest()
    assert found["log4j-api"] == Component("jar", "log4j-api", "2.25.4", "Apache-2.0", (digest,))
    assert found["libabsent.so.1"].licence == ""


def test_a_package_that_no_lock_has_is_refused(tmp_path: Path) -> None:
    with refused(ReleaseError, field="aiohttp", reason="NOT_LOCKED"):
        components_of(SERVICES, [layer(tmp_path, "0.0.1")], POLICY)


def test_the_page_adds_its_packages_without_tools(tmp_path: Path) -> None:
    listed = components_of(SERVICES, [], POLICY)
    names = {each.name for each in listed if each.kind == "npm"}
    assert {"react", "react-dom", "react-markdown"} <= names
    assert not {"vite", "typescript", "@types/react"} & names
    other = replace(SERVICES, paths=[Path("models")])
    assert [each.kind for each in components_of(other, [], POLICY)] == ["file"]


def test_unknown_and_copyleft_licences_are_refused_without_a_reason() -> None:
    known = Component("python", "aiohttp", "1", "MIT")
    unknown, copyleft = (
        replace(known, name="a", licence=""),
        replace(known, licence="AGPL-3.0-only"),
    )
    require_licences([known], POLICY)
    for wrong in (unknown, copyleft):
        with refused(ReleaseError, field="licences", reason="REFUSED"):
            require_licences([known, wrong], POLICY)
    policy = read_policy('[licences]\n[accepted]\n"python:aio*" = "a reason"\n')
    require_licences([copyleft], policy)


@pytest.mark.parametrize(
    ("expression", "required"),
    [
        ("MIT", False),
        ("LGPL-2.1-or-later", False),
        ("GPL-3.0-or-later", True),
        ("GPL-2.0-only WITH Classpath-exception-2.0", True),
        ("MIT OR GPL-2.0-only", False),
        ("MIT AND AGPL-3.0-only", True),
        ("(MIT OR GPL-2.0-only) AND GPL-3.0-only", True),
        ("LicenseRef-NVIDIA-Proprietary", False),
    ],
)
def test_copyleft_is_required_if_every_choice_has_it(expression: str, required: bool) -> None:
    assert requires_copyleft(expression) is required


@pytest.mark.parametrize(
    ("headers", "licence"),
    [
        ("License: MIT", "MIT"),
        ("License: Apache 2.0", "Apache-2.0"),
        ("License: Copyright (c) 2014\nClassifier: License :: OSI Approved :: MIT License", "MIT"),
        (
            "Classifier: License :: OSI Approved :: MIT License\n"
            "Classifier: License :: OSI Approved :: Apache Software License",
            "Apache-2.0 OR MIT",
        ),
        (
            "License: BSD 3-Clause License\nClassifier: License :: OSI Approved :: BSD License",
            "BSD-3-Clause",
        ),
        ("License: our own terms", ""),
        ("Summary: none", ""),
    ],
)
def test_licences_of_metadata(headers: str, licence: str) -> None:
    locked = {("x", "1"): ()}
    assert package_component(metadata("x", "1", headers), locked, POLICY).licence == licence


def test_licences_of_the_table_are_spdx_expressions() -> None:
    named = [each for each in POLICY.licences.values() if not each.startswith("LicenseRef-")]
    assert [each for each in named if not is_expression(each)] == []


def installed() -> list[tuple[str, bytes]]:
    """Return name and METADATA of the locked packages of all images that .venv has."""
    catalogue = read_catalogue()
    locks = {ROOT / lock for image in catalogue.images.values() for lock in image.locks}
    locked = {name for name, _ in locked_digests(locks)}
    found = [
        (re.sub(r"[-_.]+", "-", each.metadata["Name"]).lower(), each.read_text("METADATA") or "")
        for each in importlib.metadata.distributions()
    ]
    return [(name, text.encode()) for name, text in found if name in locked]


def test_packages_of_all_images_have_an_accepted_licence() -> None:
    listed = installed()
    assert len(listed) > 200
    digests: dict[tuple[str, str], tuple[str, ...]] = {}
    for name, text in listed:
        version = re.search(rb"^Version: (\S+)", text, re.MULTILINE)
        assert version
        digests[name, version[1].decode()] = ()
    require_licences([package_component(text, digests, POLICY) for _, text in listed], POLICY)


def valid(text: str) -> Any:
    """Check a bill of materials by CycloneDX's schema and return its content."""
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    return json.loads(text)


def test_bills_of_materials_are_valid_and_reproducible(found: dict[str, Component]) -> None:
    listed = [
        *(replace(each, licence=each.licence or "LicenseRef-x") for each in found.values()),
        Component("deb", "glibc", "2:2.36+1", "LGPL-2.1-or-later", ("a" * 64, "b" * 64)),
        Component("npm", "@scope/part", "1.0.0", "ISC", ("c" * 128,)),
    ]
    text = image_bom("thumbwheel-x", "1.0", DIGEST, listed, TIME)
    assert text == image_bom("thumbwheel-x", "1.0", DIGEST, listed[::-1], TIME)
    bom = valid(text)
    image = bom["metadata"]["component"]
    assert image["hashes"] == [{"alg": "SHA-256", "content": "1" * 64}]
    parts = {each["name"]: each for each in bom["components"]}
    (reference,) = parts["aiohttp"]["externalReferences"]
    assert {each["content"] for each in reference["hashes"]} == set(LOCKED[NAME, VERSION])
    assert parts["aiohttp"]["purl"] == f"pkg:pypi/aiohttp@{VERSION}"
    assert parts["aiohttp"]["licenses"] == [{"license": {"id": "MIT"}}]
    assert parts["glibc"]["purl"] == "pkg:deb/debian/glibc@2:2.36%2B1?arch=source"
    assert [each["name"] for each in parts["glibc"]["properties"]] == [DIGEST_PROPERTY] * 2
    assert parts["@scope/part"]["purl"] == "pkg:npm/%40scope/part@1.0.0"
    (contents,) = [each for each in bom["dependencies"] if each["ref"] == image["bom-ref"]]
    assert len(contents["dependsOn"]) == len(listed)


def test_release_lists_images_and_their_components() -> None:
    shared, own = Component("python", "a", "1", "MIT"), Component("python", "b", "1", "MIT")
    images = {"x": (DIGEST, [shared]), "y": (DIGEST.replace("1", "2"), [shared, own])}
    bom = valid(release_bom("1.0", images, TIME))
    assert bom["metadata"]["component"]["name"] == "thumbwheel"
    assert sorted(each["name"] for each in bom["components"]) == ["a", "b", "x", "y"]
    contents = {each["ref"]: each.get("dependsOn", []) for each in bom["dependencies"]}
    assert sorted(map(len, contents.values())) == [0, 0, 1, 2, 2]


def test_invalid_bill_of_materials_is_noticed() -> None:
    text = image_bom("x", "1", DIGEST, [], TIME).replace(
        '"bomFormat": "CycloneDX"', '"bomFormat": "x"'
    )
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is not None
