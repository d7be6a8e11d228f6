"""Profiler that Python imports at the start of each traced process; see benchmarks/paths.py.

While the file `armed` exists, record each project module in which a function is entered, and each
class of an argument or return value that holds the marker text. Written to a JSON file per process
when `armed` disappears.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = os.environ["THUMBWHEEL_TRACED_ROOT"]
FOLDER = Path(os.environ["THUMBWHEEL_TRACE_FOLDER"])
CODE = tuple(f"{ROOT}/{name}/" for name in ("services", "training"))
POLL_SECONDS = 0.01
MAX_DEPTH = 3

armed = False
marker = ""
modules: set[str] = set()
classes: set[str] = set()


def parts(value: object) -> Iterator[object]:
    """Yield the values that an object holds directly, without running code of its class."""
    if isinstance(value, dict):
        yield from list(value.values())
    elif isinstance(value, list | tuple | set | frozenset):
        yield from list(value)[:50]
    elif hasattr(type(value), "ListFields"):
        yield from (part for _, part in value.ListFields())  # type: ignore[attr-defined]
    else:
        yield from list(getattr(value, "__dict__", {}).values())
        for cls in type(value).__mro__:
            slots = cls.__dict__.get("__slots__", ())
            for name in (slots,) if isinstance(slots, str) else slots:
                try:
                    yield object.__getattribute__(value, name)
                except AttributeError:
                    continue


def search(value: object, depth: int) -> None:
    """Add the classes of `value` and of its parts that hold the marker."""
    if isinstance(value, str | bytes | int | float | bool | type(None)) or callable(value):
        return
    for part in parts(value):
        if isinstance(part, str):
            if marker in part:
                classes.add(f"{type(value).__module__}.{type(value).__qualname__}")
        elif depth < MAX_DEPTH:
            search(part, depth + 1)


def profile(frame: FrameType, event: str, value: Any) -> None:
    if not armed or event not in ("call", "return"):
        return
    path = frame.f_code.co_filename
    if not path.startswith(CODE):
        return
    if event == "call":
        modules.add(path[len(ROOT) + 1 :])
        count = frame.f_code.co_argcount + frame.f_code.co_kwonlyargcount
        for name in frame.f_code.co_varnames[:count]:
            if name not in ("self", "cls"):
                search(frame.f_locals.get(name), 0)
    else:
        search(value, 0)


def watch() -> None:
    """Follow the file `armed`; write the record when the file disappears."""
    global armed, marker
    while True:
        time.sleep(POLL_SECONDS)
        try:
            text = (FOLDER / "armed").read_text()
        except FileNotFoundError:
            text = ""
        if text and not armed:
            modules.clear()
            classes.clear()
            marker, armed = text, True
        elif armed and not text:
            armed = False
            record = {"modules": sorted(modules), "classes": sorted(classes)}
            partial = FOLDER / f"{os.getpid()}.partial"
            partial.write_text(json.dumps(record))
            partial.rename(FOLDER / f"{os.getpid()}.json")


threading.Thread(target=watch, daemon=True).start()
threading.setprofile(profile)
sys.setprofile(profile)
