"""Base layer of every image: Python, its standard library and shared libraries.

The image has no shell, no package manager and no coreutils. Wheels need more libraries than the
interpreter loads (grpcio needs librt), so all libraries that manylinux guarantees are included.
"""

import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from infra.machine.images.layer import LayerWriter

USER = 10_001
VERSION = f"python{sys.version_info[0]}.{sys.version_info[1]}"
PREFIX = "/usr/local"
# Libraries guaranteed by manylinux (PEP 600), and those that glibc opens at run time for name
# lookups.
PROMISED = (
    "libdl.so.2",
    "libgcc_s.so.1",
    "libm.so.6",
    "libnss_dns.so.2",
    "libnss_files.so.2",
    "libpthread.so.0",
    "libresolv.so.2",
    "librt.so.1",
    "libstdc++.so.6",
    "libutil.so.1",
)
NOT_NEEDED = {
    "__pycache__",
    "ensurepip",
    "idlelib",
    "lib2to3",
    "site-packages",
    "test",
    "tests",
    "tkinter",
    "turtledemo",
}
# Modules without use in a container, by the beginning of their name: interactive input, windows,
# NIS and tests of the interpreter. They alone load readline (GPL), Tk, X11 and Kerberos.
NOT_NEEDED_MODULES = ("_test", "_tkinter.", "_xxtest", "nis.", "readline.", "xxlimited")
FILES = {
    "/etc/passwd": "root:x:0:0:root:/root:/sbin/nologin\n"
    f"app:x:{USER}:{USER}:app:/tmp:/sbin/nologin\n",
    "/etc/group": f"root:x:0:\napp:x:{USER}:\n",
    "/etc/nsswitch.conf": "hosts: files dns\n",
}


def write_interpreter(writer: LayerWriter) -> None:
    """Write the interpreter, the standard library and the shared libraries."""
    for name, text in FILES.items():
        writer.data(name, text.encode())
    for folder in ("/dev", "/proc", "/run", "/sys"):
        writer.folder(folder)
    writer.folder("/tmp", 0o1777)  # noqa: S108 - of the image
    binary = Path(sys._base_executable).resolve()  # type: ignore[attr-defined]
    library = Path(sysconfig.get_path("stdlib"))
    writer.file(binary, f"{PREFIX}/bin/{VERSION}")
    writer.link(f"{PREFIX}/bin/python3", VERSION)
    writer.link(f"{PREFIX}/bin/python", VERSION)
    writer.tree(library, f"{PREFIX}/lib/{VERSION}", _is_not_needed)
    modules = [
        path
        for path in sorted(library.glob("lib-dynload/*.so"))
        if not path.name.startswith(NOT_NEEDED_MODULES)
    ]
    write_libraries(writer, [binary, *modules], PROMISED)


def write_libraries(
    writer: LayerWriter, programs: Iterable[Path], more: Iterable[str] = ()
) -> None:
    """Write the shared libraries of programs into the search path of the dynamic loader.

    Args:
        more: names of further libraries, written if present on this machine.
    """
    folder = PurePosixPath(
        "/lib", sysconfig.get_config_var("MULTIARCH") or f"{os.uname().machine}-linux-gnu"
    )
    found = dict(_loaded(programs))
    for name in more:
        for place in (folder, PurePosixPath("/usr", str(folder).lstrip("/"))):
            if Path(place, name).exists():
                found.setdefault(name, Path(place, name))
    for name, path in sorted(found.items()):
        # ldd prints the loader itself with its absolute path.
        writer.file(path.resolve(), name if name.startswith("/") else str(folder / name))


def _loaded(programs: Iterable[Path]) -> Iterator[tuple[str, Path]]:
    output = subprocess.run(
        ["ldd", *map(str, programs)], capture_output=True, text=True, check=False
    ).stdout
    for line in output.splitlines():
        if match := re.search(r"(?:(\S+) => )?(/\S+) \(0x", line):
            yield match[1] or match[2], Path(match[2])


def _is_not_needed(path: PurePosixPath) -> bool:
    return (
        path.name in NOT_NEEDED
        or path.name.startswith("config-")
        or path.suffix in {".a", ".pyc"}
        or (path.parent.name == "lib-dynload" and path.name.startswith(NOT_NEEDED_MODULES))
    )
