"""First program in the sandbox: set limits, drop root, run the code, and report the results.

The program is passed as text, imports none of our modules and contains no expected values. The
executed code can change everything here, so the parent treats each line only as "the answer of the
code".
"""

# pathlib would add 5 ms to every start; any exception of the code is its answer.
# ruff: noqa: PTH109, PTH123, BLE001, S606

from __future__ import annotations

import json
import os
import resource
import sys

# Every import delays every run: typing alone takes a quarter of the start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MODULE, INPUT, OUTPUT = "candidate", "input", "output"
CODE = f"{MODULE}.py"


def main() -> None:
    """Read the request from stdin, run the code, and exit."""
    with open(0, "rb", closefd=False) as stdin:
        request = json.load(stdin)
    apply_limits(request["limits"], request["uid"])
    output = os.dup(1)
    # The code gets no stream; results go through the duplicated descriptor.
    null = os.open("/dev/null", os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    with open(CODE, "w", encoding="utf-8", errors="surrogatepass") as file:
        file.write(request["code"])
    if "function" in request:
        call(request["function"], request["calls"], output)
    else:
        run(request["inputs"], output)
    os._exit(0)


def apply_limits(limits: dict[str, tuple[int, int]], uid: int | None) -> None:
    """Set soft and hard limits, so that no process inside can raise them, and drop root."""
    for name, (soft, hard) in limits.items():
        resource.setrlimit(getattr(resource, name), (soft, hard))
    if uid is not None:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    # Fail closed if the drop of privileges had no effect.
    if 0 in (os.getuid(), os.geteuid()):
        raise SystemExit("still root")
    os.umask(0o077)


def call(name: str, calls: list[list[Any]], output: int) -> None:
    """Call the function and report one line per call."""
    sys.path.insert(0, os.getcwd())
    try:
        function = getattr(__import__(MODULE), name, None)
    except BaseException as error:
        return write_line(output, {"error": type(error).__name__})
    if not callable(function):
        return write_line(output, {"error": "no such function"})
    for arguments in calls:
        try:
            write_line(output, {"value": plain(function(*arguments))})
        except BaseException as error:
            write_line(output, {"error": type(error).__name__})
    return None


def plain(value: Any) -> Any:
    """Convert to JSON types by exact type.

    Tuples become lists; sets, other objects and non-text keys are errors.
    """
    if value is None or type(value) in (bool, int, float, str):
        return value
    if type(value) in (list, tuple):
        return [plain(item) for item in value]
    if type(value) is dict and all(type(key) is str for key in value):
        return {key: plain(item) for key, item in value.items()}
    raise TypeError(type(value).__name__)


def run(inputs: list[str], output: int) -> None:
    """Run the code as a program, in a new process per input, and report one line each."""
    for text in inputs:
        with open(INPUT, "w", encoding="utf-8") as file:
            file.write(text)
        open(OUTPUT, "w").close()
        child = os.fork()
        if child == 0:
            program(output)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        with open(OUTPUT, encoding="utf-8", errors="replace", newline="") as file:
            write_line(output, {"status": status, "value": file.read()})


def program(output: int) -> None:
    """Replace this process with an interpreter for the code; never returns."""
    try:
        os.close(output)
        os.dup2(os.open(INPUT, os.O_RDONLY), 0)
        os.dup2(os.open(OUTPUT, os.O_WRONLY), 1)
        os.execv(sys.executable, [sys.executable, "-S", "-s", "-B", CODE])
    finally:
        os._exit(1)


def write_line(output: int, line: dict[str, Any]) -> None:
    """Write one JSON line completely."""
    data = (json.dumps(line) + "\n").encode()
    while data:
        data = data[os.write(output, data) :]


if __name__ == "__main__":
    main()
