"""The command line `thumbwheel`: its list of commands, lazy loading, and missing dependencies."""

import os
import re
import signal
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from thumbwheel_cli import __main__ as cli

ROOT = Path(__file__).resolve().parents[2]


def run(*words: str, program: str = "") -> subprocess.CompletedProcess[str]:
    command = ["-c", program] if program else ["-m", "thumbwheel_cli"]
    return subprocess.run(
        [sys.executable, *command, *words], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_help_lists_all_commands_and_imports_none_of_them() -> None:
    program = "import sys; from thumbwheel_cli.__main__ import main; main(); print(*sys.modules)"
    listed, _, loaded = run("--help", program=program).stdout.rpartition("\n\n")
    assert set(re.findall(r"^  ([a-z ]+?)  ", listed, re.MULTILINE)) == set(cli.COMMANDS)
    assert not {"argparse", "grpc", "torch", "infra", "training"} & set(loaded.split())


def test_every_command_names_a_module_that_exists() -> None:
    for name, command in cli.COMMANDS.items():
        assert (ROOT / Path(*command.module.split(".")) / "__main__.py").is_file(), name


@pytest.mark.parametrize(
    "words", [("train", "--help"), ("models", "lineage", "--help"), ("evaluate", "--help")]
)
def test_command_gets_the_remaining_arguments(words: tuple[str, ...]) -> None:
    done = run(*words)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: thumbwheel {' '.join(words[:-1])} ")


@pytest.mark.parametrize("words", [("--help",), ("evaluate", "--tasks", "list")])
def test_output_that_is_closed_early_is_no_error(words: tuple[str, ...]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "thumbwheel_cli", *words],
        cwd=ROOT,
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writing)
    errors = done.stderr.removeprefix("thumbwheel evaluate: loading\n")
    assert (done.returncode, errors) == (128 + signal.SIGPIPE, "")


@pytest.mark.parametrize(
    ("words", "typed", "hint"),
    [
        ("trian sft", "trian", "did you mean train?"),
        ("data bild --out x", "data bild", "did you mean data build?"),
        ("modles import x", "modles import", "did you mean models import?"),
        ("train stf", "stf", "did you mean sft?"),
        ("xyzzy", "xyzzy", "--help"),
        ("models list", "models list", "models fetch"),
    ],
)
def test_unknown_command_is_a_usage_error_with_the_nearest_name(
    words: str, typed: str, hint: str
) -> None:
    done = run(*words.split())
    assert done.returncode == cli.USAGE_ERROR
    (line,) = done.stderr.splitlines()
    assert f"'{typed}' is not a command" in line and hint in line and not done.stdout


@pytest.mark.parametrize("words", [("data",), ("data", "--help")])
def test_name_of_a_group_lists_its_commands_only(words: tuple[str, ...]) -> None:
    done = run(*words)
    names = {name for name in cli.COMMANDS if name.startswith("data ")}
    assert set(re.findall(r"^  ([a-z ]+?)  ", done.stdout, re.MULTILINE)) == names
    assert done.returncode == 0


def test_ctrl_c_during_imports_is_one_line() -> None:
    program = (
        "import runpy, sys\n"
        "from thumbwheel_cli.__main__ import main\n"
        "def interrupted(*_, **__): raise KeyboardInterrupt\n"
        "runpy.run_module = interrupted\n"
        "main()"
    )
    done = run("rollout", program=program)
    assert done.returncode == 128 + signal.SIGINT
    assert done.stderr == "thumbwheel rollout: stopped\n"


def test_missing_dependency_group_is_named_with_its_installation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(cli.PROBES, "training", "a_package_that_is_not_installed")
    assert cli.missing(cli.COMMANDS["up"]) == ""
    assert cli.missing(cli.COMMANDS["train"]).endswith(
        "run python3 infra/install/environment.py training"
    )


HELP_WITHOUT_PACKAGES = """
import contextlib, io, sys
from training.corpus.__main__ import COMMANDS, main

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in sys.argv:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
for command in COMMANDS:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        main([command, "--help"])
    print(printed.getvalue().partition(" [-h]")[0])
"""


def locked_packages(group: str) -> set[str]:
    lines = (ROOT / "locks" / f"{group}.txt").read_text().splitlines()
    return {line.partition("==")[0].lower() for line in lines if "==" in line}


def test_help_of_data_commands_needs_neither_their_group_nor_that_of_training() -> None:
    packages = locked_packages("corpus") | locked_packages("training")
    packages -= locked_packages("services")
    absent = [
        module
        for module, owners in packages_distributions().items()
        if packages.intersection(owner.lower().replace("_", "-") for owner in owners)
    ]
    assert {"scrapy", "spacy", "torch", "ray"} <= set(absent)

    done = run(*absent, program=HELP_WITHOUT_PACKAGES)

    assert done.returncode == 0, done.stderr
    commands = [name for name in cli.COMMANDS if name.startswith("data ")]
    assert done.stdout.split("\n")[:-1] == [f"usage: thumbwheel {name}" for name in commands]


@pytest.mark.parametrize("is_described", [True, False])
def test_help_without_the_group_of_a_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], is_described: bool
) -> None:
    """The module describes its options, or needs the group even for that."""

    def run_module(*_: object, **__: object) -> None:
        if not is_described:
            raise ModuleNotFoundError
        sys.exit()

    monkeypatch.setattr("runpy.run_module", run_module)
    monkeypatch.setitem(cli.PROBES, "corpus", "a_package_that_is_not_installed")
    monkeypatch.setattr(sys, "argv", ["thumbwheel", "data", "pii", "--help"])
    with pytest.raises(SystemExit) as ended:
        cli.run()
    assert ended.value.code == (None if is_described else cli.USAGE_ERROR)
    assert ("environment.py corpus" in capsys.readouterr().err) is not is_described
    monkeypatch.setattr(sys, "argv", ["thumbwheel", "data", "pii", "x.txt"])
    with pytest.raises(SystemExit, match="2"):
        cli.run()


def test_image_without_the_module_or_group_names_the_image(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(cli, "ROOT", tmp_path)
    assert "infra.run.embedded is not part of this image" in cli.missing(cli.COMMANDS["up"])
    (tmp_path / "training").mkdir()
    (tmp_path / "training" / "__main__.py").touch()
    monkeypatch.setitem(cli.PROBES, "training", "a_package_that_is_not_installed")
    assert cli.missing(cli.COMMANDS["train"]).endswith("use the image thumbwheel-training")


def test_keys_run_in_an_image_without_state_folders(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    gateway = tmp_path / "services" / "gateway"
    gateway.mkdir(parents=True)
    (gateway / "__main__.py").touch()
    monkeypatch.setattr(cli, "ROOT", tmp_path)
    assert cli.missing(cli.COMMANDS["keys"]) == ""
    assert cli.COMMANDS["keys"].module_here() == "services.gateway"
