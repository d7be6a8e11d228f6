"""The list of images says the truth about the clone, and two ways of building follow it."""

import re
from pathlib import Path

from infra.evaluation_stores.layout import IMAGE
from infra.images import packages
from infra.images.build import JARS, locks_of
from infra.images.catalogue import ROOT, read_catalogue
from infra.images.containerfile import render
from services.generator.presets import PRESETS_FILE

CATALOGUE = read_catalogue()


def test_every_service_is_in_an_image_and_every_path_is_there() -> None:
    listed = {path for image in CATALOGUE.images.values() for path in image.paths}
    services = {
        found.parent.relative_to(ROOT) for found in (ROOT / "services").glob("*/__main__.py")
    }
    assert services <= listed
    assert [path for path in listed if not (ROOT / path).exists()] == []
    locks = [lock for image in CATALOGUE.images.values() for lock in locks_of(image)]
    assert [lock for lock in locks if not (ROOT / lock).exists()] == []


def test_an_image_with_code_that_reads_the_presets_holds_them() -> None:
    readers = [Path("services/generator/presets.py"), Path("training/decoding/presets.py")]
    reading = {
        name
        for name, image in CATALOGUE.images.items()
        if any(path in (reader, *reader.parents) for path in image.paths for reader in readers)
    }
    assert reading == {"services", "training"}
    holding = {
        name
        for name, image in CATALOGUE.images.items()
        if PRESETS_FILE.relative_to(ROOT) in image.paths
    }
    assert holding == reading


def test_no_image_holds_tests_tools_or_what_builds_the_page() -> None:
    listed = {path for image in CATALOGUE.images.values() for path in image.paths}
    for path in (
        "tests",
        "infra",
        "benchmarks",
        "services/web/node_modules",
        "services/web/src",
        ".venv",
    ):
        assert not [each for each in listed if each == Path(path) or each in Path(path).parents]


def test_the_containerfile_copies_what_the_list_says_and_ends_as_nobody() -> None:
    text = render(CATALOGUE)[ROOT / "Containerfile"]
    for name, image in CATALOGUE.images.items():
        (body,) = [
            each
            for each in re.split(r"^FROM ", text, flags=re.MULTILINE)
            if each.startswith(f"base AS {name}\n")
        ]
        assert re.findall(r"^COPY ([^-]\S+) /app/", body, re.MULTILINE) == [
            str(path) for path in image.paths
        ]
        assert "USER 10001:10001" in body
        assert f'CMD ["{image.module}"]' in body


def test_what_docker_sees_of_the_clone_is_what_the_images_hold() -> None:
    lines = render(CATALOGUE)[ROOT / ".dockerignore"].splitlines()
    assert lines[1] == "*"
    wanted = {
        str(path)
        for image in CATALOGUE.images.values()
        for path in (*locks_of(image), *image.paths)
    }
    assert {line.removeprefix("!") for line in lines if line.startswith("!")} == wanted


def test_the_stores_are_where_they_look_for_their_programs() -> None:
    assert (str(IMAGE.programs.packages), str(IMAGE.jars)) == (packages.SITE, JARS)
