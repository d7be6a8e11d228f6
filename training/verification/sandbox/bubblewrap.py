"""Command line of bubblewrap around a Python interpreter with its standard library only.

As root, namespaces are created with root's privileges, and the first program drops root inside. As
another user, a user namespace is created.
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

from training.errors import UnavailableError

PROGRAM_VARIABLE = "TW_TRAINING_BUBBLEWRAP"
HOME = "/python"  # path of the interpreter inside the sandbox
NOBODY = 65534
KERNEL_SETTINGS = "/proc/sys"
LIBRARIES = (
    *("ld-*", "libc", "libm", "libdl", "libpthread", "librt", "libutil", "libgcc_s", "libstdc++"),
    # Beside the others where the image was built without Docker.
    "libpython3*",
    *("libz", "libbz2", "liblzma", "libffi", "libcrypto", "libexpat", "libmpdec", "libuuid"),
)
# Joins each control group listed before "--", then executes the command after it.
ENTER_GROUPS = 'while [ "$1" != -- ]; do echo 0 > "$1" || exit 125; shift; done; shift; exec "$@"'
ENVIRONMENT = {
    "HOME": "/tmp",  # noqa: S108 - the sandbox's own
    "LANG": "C.UTF-8",
    "LD_LIBRARY_PATH": f"{HOME}/lib",
    # Answers may depend on the order of sets, which must not vary between runs.
    "PYTHONHASHSEED": "0",
    "PYTHONUTF8": "1",
    "PATH": f"{HOME}/bin",
}


class SandboxUnavailableError(UnavailableError):
    """Error for a machine without a safe sandbox; the message gives the remedy."""

    reason = "SANDBOX_UNAVAILABLE"


@dataclass(frozen=True)
class Interpreter:
    """A Python interpreter outside: program, standard library, and libpython if present."""

    program: Path
    library: Path
    shared: tuple[Path, ...] = ()

    @property
    def version(self) -> str:
        return self.library.name


def this_interpreter() -> Interpreter:
    """Return the interpreter of this process; in a virtual environment its base interpreter."""
    folder = Path(sysconfig.get_config_var("LIBDIR") or "")
    return Interpreter(
        program=Path(sys.executable).resolve(),
        library=Path(sysconfig.get_path("stdlib")).resolve(),
        shared=tuple(sorted(folder.glob(f"libpython{sys.version_info[0]}*.so*"))),
    )


def find_bubblewrap(environment: Mapping[str, str]) -> Path:
    """Return the program in TW_TRAINING_BUBBLEWRAP, else `bwrap` from PATH.

    Raises:
        SandboxUnavailableError: the program is missing.
    """
    named = environment.get(PROGRAM_VARIABLE)
    found = named or shutil.which("bwrap", path=environment.get("PATH"))
    if not found or not Path(found).exists():
        raise SandboxUnavailableError(
            f"{named or 'bwrap'} not found: running programs requires bubblewrap. Install it "
            "(Debian: apt-get install bubblewrap), or run `python -m infra.machine.servers install`"
            f" in a clone, which needs no root and prints the value for {PROGRAM_VARIABLE}",
            field=named or "bwrap",
            reason="MISSING",
        )
    return Path(found)


def command(
    bubblewrap: Path, interpreter: Interpreter, disk_bytes: int, filter_descriptor: int
) -> list[str]:
    """Return the command up to the text of the first program."""
    python = f"{HOME}/bin/{interpreter.program.name}"
    return [
        str(bubblewrap),
        *_namespaces(as_root=os.geteuid() == 0),
        *("--die-with-parent", "--new-session", "--hostname", "sandbox"),
        *_files(interpreter),
        *("--dev-bind", "/dev/null", "/dev/null"),
        *("--perms", "1777", "--size", str(disk_bytes), "--tmpfs", "/tmp"),  # noqa: S108 - inside
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
        # Needed to change the user. A user namespace would leave the process root outside.
        yield from ("--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID")
    else:
        yield from ("--unshare-user", "--uid", str(NOBODY), "--gid", str(NOBODY))
        # Containers cannot write the kernel setting with which bubblewrap forbids further user
        # namespaces. The system-call filter denies them in any case.
        if not os.statvfs(KERNEL_SETTINGS).f_flag & os.ST_RDONLY:
            yield "--disable-userns"


@functools.cache
def _files(interpreter: Interpreter) -> tuple[str, ...]:
    """Return the mounts, without /proc, /sys, /etc and shell; cached, since the search is slow."""
    words: list[str] = []
    # Parent directories created implicitly by bubblewrap are accessible to root only.
    for parent in (HOME, f"{HOME}/bin", f"{HOME}/lib", "/usr", "/dev"):
        words += ("--dir", parent)
    inside = f"{HOME}/lib/{interpreter.version}"
    words += ("--ro-bind", str(interpreter.program), f"{HOME}/bin/{interpreter.program.name}")
    words += ("--ro-bind", str(interpreter.library), inside)
    for packages in ("site-packages", "dist-packages"):
        if (interpreter.library / packages).is_dir():
            words += ("--tmpfs", f"{inside}/{packages}")
            words += ("--remount-ro", f"{inside}/{packages}")
    for library in interpreter.shared:
        words += ("--ro-bind", str(library), f"{HOME}/lib/{library.name}")
    # The loader and the libraries linked by the interpreter follow file by file. Their directories
    # are not mounted as a whole because they also contain programs.
    architecture = sysconfig.get_config_var("MULTIARCH") or ""
    for name in ("lib", "lib64"):
        root = Path("/") / name
        if root.is_symlink():
            words += ("--symlink", str(root.readlink()), str(root))
    for folder in (Path("/usr/lib"), Path("/usr/lib64"), Path("/lib"), Path("/lib64")):
        if folder.is_symlink() or not folder.is_dir():
            continue
        for place in dict.fromkeys((folder, folder / architecture)):
            words += ("--dir", str(place))
            for library in sorted(
                file for name in LIBRARIES for file in place.glob(f"{name}.so.[0-9]*")
            ):
                words += ("--ro-bind", str(library), str(library))
    return tuple(words)
