"""Rules of readability, each on a module that breaks it and on one that does not."""

import subprocess
import sys
from pathlib import Path

import pytest

from infra.check.readability import (
    MAX_MODULES_IN_FOLDER,
    ROOT,
    Figures,
    Module,
    banned_phrases,
    crowded_folders,
    language,
    uncommented,
)

PLAIN = '''"""Retry policy for unary calls."""

# The first delay is random so that clients do not retry together.
def delay(attempt: int) -> float:
    return _base(attempt) + _base(attempt + 1)


def _base(attempt: int) -> float:
    return 2.0**attempt
'''


def module(text: str, name: str = "services/gateway/retry.py") -> Module:
    return Module(ROOT / name, text)


def test_plain_module_breaks_no_rule() -> None:
    assert list(language(module(PLAIN))) == []


@pytest.mark.parametrize(
    ("docstring", "finding"),
    [
        ("What the session service can be set to.", "docstring starts with 'What'"),
        ("Takes back.", "docstring of 2 words"),
        ("Process erasure requests for ever.", "banned phrase 'for ever'"),
        ("Return the key. Nobody else may read it.", "banned phrase 'Nobody'"),
    ],
)
def test_language_of_a_docstring_is_checked(docstring: str, finding: str) -> None:
    (found,) = language(module(f'"""{docstring}"""\n'))
    assert found.startswith(f"services/gateway/retry.py:1: {finding}")


def test_comments_are_checked_and_directives_are_not() -> None:
    text = '"""Retry policy for unary calls."""\n\nx = 1  # noqa: anew\ny = 2  # started anew\n'
    (found,) = language(module(text))
    assert found == "services/gateway/retry.py:4: banned phrase 'anew'"


def test_line_over_100_characters_is_found_unless_marked() -> None:
    def wide(text: str) -> bool:
        command = [sys.executable, "-m", "ruff", "check", "--select", "E501"]
        done = subprocess.run(
            [*command, "--stdin-filename", "services/wide.py", "-"],
            cwd=ROOT,
            input=text,
            capture_output=True,
            text=True,
            check=False,
        )
        return "E501" in done.stdout

    line = "x = " + "1" * 97
    assert wide(line + "\n")
    assert not wide(line + "  # noqa: E501\n")
    assert not wide("x = " + "1" * 96 + "\n")


def test_banned_phrases_in_documents_are_found_with_their_line() -> None:
    (found,) = banned_phrases("docs/page.md", "# Keys\n\nThe process starts anew.\n")
    assert found == "docs/page.md:3: banned phrase 'anew'"


def test_private_function_with_a_single_call_is_counted() -> None:
    twice = Figures([module(PLAIN)])
    once = Figures([module(PLAIN.replace(" + _base(attempt + 1)", ""))])
    assert (twice.called_once, once.called_once) == (0.0, 0.5)


def test_private_function_that_is_passed_as_a_value_is_not_counted() -> None:
    passed = "def _close() -> None:\n    pass\n\n\ncallbacks = [_close]\n"
    called = passed.replace("[_close]", "[_close()]")
    assert Figures([module(passed)]).called_once == 0.0
    assert Figures([module(called)]).called_once == 1.0


def test_short_modules_count_except_package_and_main_files() -> None:
    names = ("a/x.py", "a/__init__.py", "a/__main__.py")
    long = module("\n" * 40, "a/y.py")
    assert Figures([*(module(PLAIN, name) for name in names), long]).short_modules == 0.25


def test_share_of_pronoun_sentences() -> None:
    text = '"""Return the version of a user. It is sticky."""\n'
    assert Figures([module(text)]).pronoun_sentences == 0.5


def test_folder_with_too_many_modules_is_named() -> None:
    modules = [module(PLAIN, f"services/x/m{n}.py") for n in range(MAX_MODULES_IN_FOLDER + 1)]
    assert list(crowded_folders(modules[:-1])) == []
    (found,) = crowded_folders(modules)
    assert found.startswith("services/x: 16 modules")


def test_hard_modules_need_comments_and_must_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("infra.check.readability.HARD_MODULES", ("services/gateway/retry.py",))
    bare = "\n".join(line for line in PLAIN.splitlines() if not line.startswith("#"))
    assert list(uncommented([module(PLAIN)])) == []
    assert len(list(uncommented([module(bare)]))) == 1
    (missing,) = uncommented([Module(Path("other.py"), PLAIN)])
    assert missing.endswith("does not exist")
