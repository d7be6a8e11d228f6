"""The first program in the sandbox: takes its limits, gives up root, runs the code, and writes down
what comes of it.

It is handed over as text and runs alone: it imports nothing of ours and knows no expected value.
The code that it runs can change everything here; that is why nobody outside believes more of its
lines than "this is what the code answers".
"""

# pathlib would cost every start 5 ms; whatever the code raises is its answer.
# ruff: noqa: PTH109, PTH123, BLE001, S606

from __future__ import annotations

import json
import os
import resource
import sys

# What it imports is paid for by every run: typing alone takes a quarter of the start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MODULE, INPUT, OUTPUT = "candidate", "input", "output"
CODE = f"{MODULE}.py"


def main() -> None:
    with open(0, "rb", closefd=False) as asked:
        request = json.load(asked)
    settle(request["limits"], request["uid"])
    report = os.dup(1)
    null = os.open("/dev/null", os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    with open(CODE, "w", encoding="utf-8", errors="surrogatepass") as file:
        file.write(request["code"])
    if "function" in request:
        call(request["function"], request["calls"], report)
    else:
        run(request["inputs"], report)
    os._exit(0)


def settle(limits: dict[str, tuple[int, int]], uid: int | None) -> None:
    """Nothing in here may raise a limit again: the hard ones fall too."""
    for name, (soft, hard) in limits.items():
        resource.setrlimit(getattr(resource, name), (soft, hard))
    if uid is not None:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    if 0 in (os.getuid(), os.geteuid()):
        raise SystemExit("still root")
    os.umask(0o077)


def call(name: str, calls: list[list[Any]], report: int) -> None:
    """One line a call."""
    sys.path.insert(0, os.getcwd())
    try:
        function = getattr(__import__(MODULE), name, None)
    except BaseException as error:
        return say(report, {"error": type(error).__name__})
    if not callable(function):
        return say(report, {"error": "no such function"})
    for arguments in calls:
        try:
            say(report, {"value": plain(function(*arguments))})
        except BaseException as error:
            say(report, {"error": type(error).__name__})
    return None


def plain(value: Any) -> Any:
    """Only what JSON knows, by exact type. A tuple is a list; a set, an object or a key that is no
    text is an error.
    """
    if value is None or type(value) in (bool, int, float, str):
        return value
    if type(value) in (list, tuple):
        return [plain(item) for item in value]
    if type(value) is dict and all(type(key) is str for key in value):
        return {key: plain(item) for key, item in value.items()}
    raise TypeError(type(value).__name__)


def run(inputs: list[str], report: int) -> None:
    """The code as a program, once an input, each in a process of its own; one line each."""
    for text in inputs:
        with open(INPUT, "w", encoding="utf-8") as file:
            file.write(text)
        open(OUTPUT, "w").close()
        child = os.fork()
        if child == 0:
            program(report)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        with open(OUTPUT, encoding="utf-8", errors="replace", newline="") as file:
            say(report, {"status": status, "value": file.read()})


def program(report: int) -> None:
    """Becomes an interpreter of its own. Never returns."""
    try:
        os.close(report)
        os.dup2(os.open(INPUT, os.O_RDONLY), 0)
        os.dup2(os.open(OUTPUT, os.O_WRONLY), 1)
        os.execv(sys.executable, [sys.executable, "-S", "-s", "-B", CODE])
    finally:
        os._exit(1)


def say(report: int, line: dict[str, Any]) -> None:
    data = (json.dumps(line) + "\n").encode()
    while data:
        data = data[os.write(report, data) :]


if __name__ == "__main__":
    main()
