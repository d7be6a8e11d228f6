"""Program of the sandbox that runs the tests of a benchmark apart from the code: two processes.

code_tasks.py passes the text of this file; the program imports none of our modules. The process of
the code has neither the tests nor the token of the caller. Both exchange calls and results as lines
of JSON. Results are plain values: an object of a class of the code could equal everything, so
it stays in its process, and the tests see a `Reference`.
"""

# The sandbox has the standard library only, and any exception of the code is its answer.
# ruff: noqa: PTH108, BLE001, S606

from __future__ import annotations

import builtins
import collections
import datetime
import decimal
import fractions
import importlib
import itertools
import json
import os
import sys
import types
from collections.abc import Callable, Sequence
from typing import Any

MOST_ITEMS = 1_000_000
MOST_BYTES = 4_000_000
SEQUENCES: dict[str, Any] = {
    one.__name__: one for one in (list, tuple, set, frozenset, collections.deque)
}
MAPPINGS: dict[str, Any] = {
    one.__name__: one for one in (dict, collections.Counter, collections.OrderedDict)
}
TEXTS: dict[str, Any] = {one.__name__: one for one in (decimal.Decimal, fractions.Fraction)}
DATES: dict[str, Any] = {one.__name__: one for one in (datetime.date, datetime.datetime)}
NUMBERS: dict[str, Any] = {one.__name__: one for one in (range, complex, datetime.timedelta, slice)}
ITERATORS = {map, filter, zip, types.GeneratorType}
VIEWS = {type({}.keys()): "keys", type({}.values()): "values", type({}.items()): "items"}


class Reference:
    """An object of the other process."""

    def __init__(self, number: int) -> None:
        self.number = number


def encode(value: Any, refer: Callable[[Any], int]) -> Any:
    """Return a value as JSON: scalars as they are, all others as a list that begins with a name."""
    exact = type(value)
    name = exact.__name__
    if value is None or exact in (bool, int, float, str):
        return value
    if exact is collections.defaultdict:
        exact, name = dict, "dict"
    if exact in VIEWS:
        return ["views", VIEWS[exact], [encode(item, refer) for item in value]]
    if SEQUENCES.get(name) is exact:
        return [name, [encode(item, refer) for item in value]]
    if MAPPINGS.get(name) is exact:
        return [name, [[encode(key, refer), encode(item, refer)] for key, item in value.items()]]
    if exact in ITERATORS:
        return ["iterator", [encode(item, refer) for item in itertools.islice(value, MOST_ITEMS)]]
    if TEXTS.get(name) is exact:
        return [name, str(value)]
    if DATES.get(name) is exact:
        return [name, value.isoformat()]
    if exact is range:
        return [name, [value.start, value.stop, value.step]]
    if exact is complex:
        return [name, [value.real, value.imag]]
    if exact is datetime.timedelta:
        return [name, [value.days, value.seconds, value.microseconds]]
    if exact is bytes:
        return [name, value.hex()]
    return ["reference", refer(value)]


def decode(data: Any, find: Callable[[int], Any]) -> Any:
    """Return the value of `encode`; the data are untrusted."""
    if type(data) is not list:
        return data
    name, content = data[:2]
    if name == "views":
        items = [decode(item, find) for item in data[2]]
        if content == "items":
            return dict(items).items()
        return dict.fromkeys(items).keys() if content == "keys" else dict(enumerate(items)).values()
    if name in SEQUENCES:
        return SEQUENCES[name](decode(item, find) for item in content)
    if name in MAPPINGS:
        return MAPPINGS[name]({decode(key, find): decode(item, find) for key, item in content})
    if name == "iterator":
        return iter([decode(item, find) for item in content])
    if name in TEXTS:
        return TEXTS[name](content)
    if name in DATES:
        return DATES[name].fromisoformat(content)
    if name == "bytes":
        return bytes.fromhex(content)
    return find(content) if name == "reference" else NUMBERS[name](*content)


def write(descriptor: int, message: object) -> None:
    """Write one line of JSON completely."""
    data = memoryview((json.dumps(message) + "\n").encode())
    while data:
        data = data[os.write(descriptor, data) :]


def serve() -> None:
    """Load the code and answer calls until the end of the requests."""
    objects: list[Any] = []

    def refer(value: Any) -> int:
        objects.append(value)
        return len(objects) - 1

    def answer(work: Callable[[], Any]) -> None:
        try:
            message = {"value": encode(work(), refer)}
        except BaseException as error:
            message = {"error": type(error).__name__}
        write(answers, message)

    requests, answers = os.fdopen(os.dup(0)), os.dup(1)
    null = os.open("/dev/null", os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    code: dict[str, Any] = {"__name__": "candidate"}
    programs, names = json.loads(requests.readline())

    def load() -> list[tuple[str, bool, Any]]:
        for text in programs:
            types.FunctionType(compile(text, "candidate.py", "exec"), code)()
        known = [(name, code[name]) for name in names if name in code]
        return [(name, callable(value), value) for name, value in known]

    answer(load)
    for line in requests:
        name, *given = json.loads(line)
        arguments, named = (decode(each, objects.__getitem__) for each in given)
        answer(lambda called=code[name], a=arguments, n=named: called(*a, **n))  # type: ignore[misc]


class Candidate:
    """The process of the code, seen from that of the tests."""

    def __init__(self, program: str) -> None:
        read_end, write_answers = os.pipe()
        read_requests, write_end = os.pipe()
        self._process = os.fork()
        if not self._process:
            try:
                os.dup2(read_requests, 0)
                os.dup2(write_answers, 1)
                # A new interpreter, whose memory has no copy of the tests.
                options = ("-S", "-s", "-P", "-B", "-c", program)
                os.execv(sys.executable, (sys.executable, *options))
            finally:
                os._exit(1)
        os.close(read_requests)
        os.close(write_answers)
        self._requests, self._answers, self._buffer = write_end, read_end, b""

    def ask(self, message: object) -> Any:
        """Return the answer to a request, or raise the exception of the code."""
        write(self._requests, message)
        while b"\n" not in self._buffer:
            data = os.read(self._answers, 65_536)
            self._buffer += data
            if not data:
                _, status = os.waitpid(self._process, 0)
                if os.WIFSIGNALED(status):  # by a limit, which is then the end of the run
                    os.kill(os.getpid(), os.WTERMSIG(status))
                raise EOFError("candidate")
            if len(self._buffer) > MOST_BYTES:
                raise OverflowError("answer")
        line, self._buffer = self._buffer.split(b"\n", 1)
        answer = json.loads(line)
        if "error" in answer:
            error = getattr(builtins, answer["error"], RuntimeError)
            is_error = isinstance(error, type) and issubclass(error, Exception)
            raise error() if is_error else RuntimeError()
        return decode(answer["value"], Reference)

    def function(self, name: str) -> Callable[..., Any]:
        """Return a function that calls the function of this name in the code."""

        def number(value: Any) -> int:
            if type(value) is not Reference:
                raise TypeError(type(value).__name__)
            return value.number

        def call(*arguments: Any, **named: Any) -> Any:
            return self.ask((name, encode(arguments, number), encode(named, number)))

        return call


def judge(programs: Sequence[str], tests: str, names: Sequence[str], program: str) -> None:
    """Run the tests on the code.

    Args:
        programs: the code, and statements in its process, one after the other.
        names: names of both that the tests use.
        program: the text of this file.

    Raises:
        Exception: the code does not pass.
    """
    os.unlink("candidate.py")  # the sandbox's copy of the program, with the tests
    candidate = Candidate(f"{program}\nserve()\n")
    known: dict[str, Any] = {
        name: importlib.import_module(name) for name in names if name in sys.stdlib_module_names
    }
    for name, is_function, value in candidate.ask((list(programs), list(names))):
        if is_function:
            known[name] = candidate.function(name)
        else:
            known.setdefault(name, value)
    types.FunctionType(compile(tests, "tests.py", "exec"), known)()
