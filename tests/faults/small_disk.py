"""A small disk that can be filled: a tmpfs in a user namespace.

No root is needed, but a kernel with user namespaces. A sleeping process holds the namespace. Others
reach the disk through the root folder of this process.
"""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MIB = 1 << 20
# `read` ends together with the test, because the test's end of the pipe is closed in any case.
MOUNT = 'mount -t tmpfs -o size={size}m none "$1" && echo ready && read _'


@dataclass(frozen=True)
class SmallDisk:
    """A mounted disk. `folder` is on it; `enter` runs a command where the disk is at its path."""

    folder: Path
    enter: tuple[str, ...]

    @property
    def free_bytes(self) -> int:
        status = os.statvfs(self.folder)
        return status.f_bavail * status.f_frsize

    def fill(self) -> None:
        """Fill the disk to the last byte."""
        with (
            contextlib.suppress(OSError),
            (self.folder / "filler").open("ab", buffering=0) as filler,
        ):
            while True:
                filler.write(bytes(max(1, min(MIB, self.free_bytes))))

    def free_space(self) -> None:
        (self.folder / "filler").unlink()


def can_mount_disks(folder: Path) -> bool:
    """Return True if the kernel permits user namespaces."""
    command = ("unshare", "-r", "-m", "mount", "-t", "tmpfs", "none", str(folder))
    return (
        shutil.which("unshare") is not None and subprocess.run(command, check=False).returncode == 0
    )


@contextlib.contextmanager
def small_disk(folder: Path, size_mib: int) -> Iterator[SmallDisk]:
    """Mount a small disk during the block."""
    script = MOUNT.format(size=size_mib)
    command = ("unshare", "-r", "-m", "sh", "-c", script, "sh", str(folder))
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        try:
            assert holder.stdout
            assert holder.stdout.readline() == "ready\n", "the disk was not made"
            enter = ("nsenter", f"--target={holder.pid}", "-U", "-m", "--preserve-credentials")
            yield SmallDisk(Path(f"/proc/{holder.pid}/root{folder}"), enter)
        finally:
            holder.kill()
