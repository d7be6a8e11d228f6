"""The catalogue of images matches the clone, and both ways of building agree."""

import re
from pathlib import Path

import pytest

from infra.machine.evaluation_stores.layout import IMAGE
from infra.machine.images.build import BUBBLEWRAP, JARS, SITE, find_program, locks_of
from infra.machine.images.catalogue import ROOT, read_catalogue
from infra.machine.images.containerfile import render
from infra.machine.servers.errors import ServerError
from infra.machine.servers.installation import BUBBLEWRAP_PROGRAM
from services.generator.answering.presets import PRESETS_FILE
from tests.architecture.imports import imported
from tests.support.errors import refused
from training.benchmarks.data import DATA_LOCK
from training.corpus.quality import content, url_lists

CATALOGUE = read_catalogue()


def test_every_service_is_in_an_image_and_paths_exist() -> None:
    listed = {path for image in CATALOGUE.images.values() for path in image.paths}
    services = {
        found.parent.relative_to(ROOT) for found in (ROOT / "services").glob("*/__main__.py")
    }
    assert services <= listed
    assert [path for path in listed if not (ROOT / path).exists()] == []
    locks = [lock for image in CATALOGUE.images.values() for lock in locks_of(image)]
    assert [lock for lock in locks if not (ROOT / lock).exists()] == []


def files_of(module: str) -> list[Path]:
    """Return the files of a module of this project; none for other modules and for names."""
    path = ROOT.joinpath(*module.split("."))
    return [file for file in (path.with_suffix(".py"), path / "__init__.py") if file.exists()]


@pytest.mark.parametrize("name", CATALOGUE.images)
def test_image_contains_the_modules_that_its_code_imports(name: str) -> None:
    listed = [ROOT / path for path in CATALOGUE.images[name].paths]
    inside = {file for path in listed for file in (path, *path.rglob("*.py"))}
    sources = [file for file in inside if file.suffix == ".py"]
    absent = {
        f"{file.relative_to(ROOT)} imports {module}"
        for file in sources
        for module in imported(file, run_time=True, in_functions=False)
        if (found := files_of(module)) and not {*found} & inside
    }
    assert sources
    assert absent == set()


def test_images_that_read_presets_contain_the_presets() -> None:
    readers = [
        Path("services/generator/answering/presets.py"),
        Path("training/decoding/sampling.py"),
    ]
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


def test_training_contains_what_benchmarks_of_the_gate_start() -> None:
    training, predictor = CATALOGUE.images["training"], CATALOGUE.images["predictor"]
    # The model server is a process of the loop's pod.
    assert {*predictor.paths, DATA_LOCK.relative_to(ROOT)} <= {*training.paths}
    assert {*predictor.locks, Path("locks/evaluation.txt")} <= {*training.locks}
    assert predictor.scripts.items() <= training.scripts.items()


def test_training_contains_the_sandbox_for_code() -> None:
    users = [name for name, image in CATALOGUE.images.items() if BUBBLEWRAP in image.programs]
    assert users == ["training"]
    stages = re.split(r"^FROM ", render(CATALOGUE)[ROOT / "Containerfile"], flags=re.MULTILINE)
    installing = [
        stage.split()[2] for stage in stages if "install" in stage and "bubblewrap" in stage
    ]
    assert installing == users


def test_missing_program_of_an_image_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(BUBBLEWRAP_PROGRAM, str(tmp_path / "absent"))
    with refused(ServerError, field=BUBBLEWRAP, reason="MISSING"):
        find_program(BUBBLEWRAP)


def test_training_contains_packages_and_lists_of_corpora() -> None:
    training = CATALOGUE.images["training"]
    assert Path("locks/corpus.txt") in training.locks
    lists = {url_lists.LOCK, content.LOCK, DATA_LOCK}
    assert {lock.relative_to(ROOT) for lock in lists} <= {*training.paths}


def test_an_image_of_several_locks_installs_all_of_them() -> None:
    text = render(CATALOGUE)[ROOT / "Containerfile"]
    image = CATALOGUE.images["training"]
    (stage,) = re.findall(r"FROM base AS training-packages\n.*?\n\n", text, re.DOTALL)
    copied = re.findall(r"^COPY (.+) /tmp/locks/$", stage, re.MULTILINE)
    assert copied == [" ".join(map(str, image.locks))]
    assert re.findall(r"-r /tmp/(\S+)", stage) == [str(lock) for lock in image.locks]
    assert [*locks_of(image)] == [*image.locks]


def test_images_contain_no_tests_tools_or_page_sources() -> None:
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


def test_containerfile_copies_listed_paths_and_sets_the_user() -> None:
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


def test_base_image_has_no_default_and_system_packages_have_a_version() -> None:
    text = render(CATALOGUE)[ROOT / "Containerfile"]
    assert re.findall(r"^ARG .*$", text, re.MULTILINE) == ["ARG PYTHON"]
    installed = re.findall(r"apt-get install -y --no-install-recommends (.*) \\", text)
    assert installed
    assert all(
        re.fullmatch(r"\S+=\d\S+", package) for each in installed for package in each.split()
    )


def test_dockerignore_admits_only_paths_of_images() -> None:
    lines = render(CATALOGUE)[ROOT / ".dockerignore"].splitlines()
    assert lines[1] == "*"
    wanted = {
        str(path)
        for image in CATALOGUE.images.values()
        for path in (*locks_of(image), *image.paths)
    }
    assert {line.removeprefix("!") for line in lines if line.startswith("!")} == wanted


def test_store_image_has_programs_at_their_expected_paths() -> None:
    assert (str(IMAGE.programs.packages), str(IMAGE.jars)) == (SITE, JARS)
