"""The command that starts bubblewrap around a Python of its own: the interpreter, its standard
library, and nothing else of this machine.

As root it makes namespaces by root's right and the first program gives root up inside; as anybody
else by a user namespace.
"""

from __future__ import annotations

import functools
import os
import shutil
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from training.errors import DetailedError

PROGRAM_VARIABLE = "TW_TRAINING_BUBBLEWRAP"
HOME = "/python"  # the interpreter's place inside, wherever it lies outside
NOBODY = 65534
LIBRARIES = (
    *("ld-*", "libc", "libm", "libdl", "libpthread", "librt", "libutil", "libgcc_s", "libstdc++"),
    *("libz", "libbz2", "liblzma", "libffi", "libcrypto", "libexpat", "libmpdec", "libuuid"),
)
# Writes itself into each control group that stands before "--", then becomes what stands behind it.
ENTER_GROUPS = 'while [ "$1" != -- ]; do echo 0 > "$1" || exit 125; shift; done; shift; exec "$@"'
ENVIRONMENT = {
    "HOME": "/tmp",  # noqa: S108 - the sandbox's own
    "LANG": "C.UTF-8",
    "LD_LIBRARY_PATH": f"{HOME}/lib",
    # the order of sets is part of an answer; it must not change from run to run
    "PYTHONHASHSEED": "0",
    "PYTHONUTF8": "1",
    "PATH": f"{HOME}/bin",
}


class SandboxUnavailableError(DetailedError):
    """Code cannot be run safely here, so it is not run; the text says why and what to do."""

    reason = "SANDBOX_UNAVAILABLE"


@dataclass(frozen=True)
class Interpreter:
    """A Python outside: its program, its standard library, and the folder of libpython where it has
    one.
    """

    program: Path
    library: Path
    shared: tuple[Path, ...] = ()

    @property
    def version(self) -> str:
        return self.library.name


def this_interpreter() -> Interpreter:
    """The one that this process runs on; of a virtual environment the one that it was made from."""
    folder = Path(sysconfig.get_config_var("LIBDIR") or "")
    return Interpreter(
        program=Path(sys.executable).resolve(),
        library=Path(sysconfig.get_path("stdlib")).resolve(),
        shared=tuple(sorted(folder.glob(f"libpython{sys.version_info[0]}*.so*"))),
    )


def find_bubblewrap(environment: Mapping[str, str]) -> Path:
    """The program that TW_TRAINING_BUBBLEWRAP names, else `bwrap` on PATH.

    Raises:
        SandboxUnavailableError: there is none.
    """
    named = environment.get(PROGRAM_VARIABLE)
    found = named or shutil.which("bwrap", path=environment.get("PATH"))
    if not found or not Path(found).exists():
        raise SandboxUnavailableError(
            f"{named or 'bwrap'} not found: code rewards run in bubblewrap and never without it. Install it (Debian: "
            "apt-get install bubblewrap), or run `python -m infra.servers install`, which needs no root, and name the "
            f"program usr/bin/bwrap of the folder that it prints in {PROGRAM_VARIABLE}",
            field=named or "bwrap",
            reason="MISSING",
        )
    return Path(found)


def command(
    bubblewrap: Path, interpreter: Interpreter, disk_bytes: int, filter_descriptor: int
) -> list[str]:
    """Everything up to the first program's text."""
    python = f"{HOME}/bin/{interpreter.program.name}"
    return [
        str(bubblewrap),
        *_namespaces(as_root=os.geteuid() == 0),
        *("--die-with-parent", "--new-session", "--hostname", "sandbox"),
        *_files(interpreter),
        *("--dev-bind", "/dev/null", "/dev/null"),
        *("--perms", "1777", "--size", str(disk_bytes), "--tmpfs", "/tmp"),  # noqa: S108 - the sandbox's own
        *("--remount-ro", "/", "--chdir", "/tmp"),  # noqa: S108 - as above
        *(word for name, value in ENVIRONMENT.items() for word in ("--setenv", name, value)),
        *("--seccomp", str(filter_descriptor)),
        *(python, "-S", "-s", "-P", "-B", "-c"),
    ]


def _namespaces(as_root: bool) -> Iterator[str]:
    yield from (
        "--unshare-ipc",
        "--unshare-pid",
        "--unshare-net",
        "--unshare-uts",
        "--unshare-cgroup-try",
    )
    yield from ("--cap-drop", "ALL")
    if as_root:
        # Only to become somebody else: a user namespace would leave it root outside, whatever it is
        # called inside.
        yield from ("--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID")
    else:
        yield from (
            "--unshare-user",
            "--disable-userns",
            "--uid",
            str(NOBODY),
            "--gid",
            str(NOBODY),
        )


@functools.cache
def _files(interpreter: Interpreter) -> tuple[str, ...]:
    """No /proc, no /sys, no /etc, no shell. Looked for once: it takes as long as a run."""
    return (*_python(interpreter), *_system_libraries())


def _python(interpreter: Interpreter) -> Iterator[str]:
    # Parents that bubblewrap makes by itself are closed to everybody but root.
    for folder in (HOME, f"{HOME}/bin", f"{HOME}/lib", "/usr", "/dev"):
        yield from ("--dir", folder)
    yield from ("--ro-bind", str(interpreter.program), f"{HOME}/bin/{interpreter.program.name}")
    yield from ("--ro-bind", str(interpreter.library), f"{HOME}/lib/{interpreter.version}")
    for packages in ("site-packages", "dist-packages"):
        if (interpreter.library / packages).is_dir():
            yield from ("--tmpfs", f"{HOME}/lib/{interpreter.version}/{packages}")
            yield from ("--remount-ro", f"{HOME}/lib/{interpreter.version}/{packages}")
    for library in interpreter.shared:
        yield from ("--ro-bind", str(library), f"{HOME}/lib/{library.name}")


def _system_libraries() -> Iterator[str]:
    """The loader and the libraries that an interpreter and its modules are linked with, file by
    file: beside them lie programs.
    """
    architecture = sysconfig.get_config_var("MULTIARCH") or ""
    for name in ("lib", "lib64"):
        root = Path("/") / name
        if root.is_symlink():
            yield from ("--symlink", str(root.readlink()), str(root))
    for folder in (Path("/usr/lib"), Path("/usr/lib64"), Path("/lib"), Path("/lib64")):
        if folder.is_symlink() or not folder.is_dir():
            continue
        for place in dict.fromkeys((folder, folder / architecture)):
            yield from ("--dir", str(place))
            for library in sorted(
                file for name in LIBRARIES for file in place.glob(f"{name}.so.[0-9]*")
            ):
                yield from ("--ro-bind", str(library), str(library))
