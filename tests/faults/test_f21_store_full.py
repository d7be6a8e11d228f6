"""F21: the disk of the S3 store is full. The sink pauses, and goes on when there is room; nothing is lost or twice.

A disk of 48 MiB is a tmpfs in a user namespace, which needs no root but a kernel that allows it. Where it does not, a proxy
stands for it, which answers as SeaweedFS did on the full disk, with 500 InternalError; the test says which of the two it was.
"""

import os
import shutil
import subprocess
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from infra.faults.http import HttpFault, HttpProxy, Kind
from tests.faults.feedback_service import FeedbackService, port_of, wait_until
from tests.servers import Process, S3Server, running

DISK_MIB, FILLER_MIB = 48, 24
# The folder is mounted over for the server alone; the test reaches it through the server's root.
MOUNT = 'mount -t tmpfs -o size={disk}m none "$1" && head -c {filler}M /dev/zero > "$1/filler" && shift && exec "$@"'


def disks_can_be_made(folder: Path) -> bool:
    command = ("unshare", "-r", "-m", "mount", "-t", "tmpfs", "none", str(folder))
    return shutil.which("unshare") is not None and subprocess.run(command, check=False).returncode == 0


class SmallDisk(S3Server):
    """A store on a disk of its own, half of it taken by a file."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._data, (process,) = folder / "data", self.processes
        script = MOUNT.format(disk=DISK_MIB, filler=FILLER_MIB)
        mounted = ("unshare", "-r", "-m", "sh", "-c", script, "sh", str(self._data))
        program = replace(process.program, command=(*mounted, *process.program.command))
        self.processes = [Process(program, folder / "seaweedfs.log")]

    def is_full(self) -> bool:
        status = os.statvfs(self._seen_by_the_server)
        return status.f_bavail * status.f_frsize < 1 << 20

    def make_room(self) -> None:
        (self._seen_by_the_server / "filler").unlink()

    @property
    def _seen_by_the_server(self) -> Path:
        return Path(f"/proc/{self.processes[0].pid}/root{self._data}")


class FullProxy:
    """The stand-in: a proxy that answers as SeaweedFS does when its disk is full."""

    def __init__(self, proxy: HttpProxy) -> None:
        self._proxy = proxy
        self._proxy.faults = (HttpFault(Kind.STATUS, methods=frozenset({"PUT"}), status=500),)

    def is_full(self) -> bool:
        return self._proxy.counts[Kind.STATUS] >= 3

    def make_room(self) -> None:
        self._proxy.faults = ()


@pytest.mark.faults
def test_f21_a_full_disk_pauses_the_sink_and_room_resumes_it(s3: S3Server, tmp_path: Path, record_property) -> None:
    with ExitStack() as stack:
        disk: SmallDisk | FullProxy
        if disks_can_be_made(tmp_path):
            disk = stack.enter_context(running(SmallDisk(tmp_path)))
            bucket = disk.bucket()
            port = port_of(bucket)
        else:
            bucket = s3.bucket()
            proxy = stack.enter_context(HttpProxy(port_of(bucket)))
            disk, port = FullProxy(proxy), proxy.port
        record_property("disk", type(disk).__name__)
        print(f"F21 ran on a {type(disk).__name__}")
        service = stack.enter_context(FeedbackService(tmp_path, bucket, port))
        with service.people_rate(text_bytes=8_000):
            wait_until(lambda: disk.is_full() and "object store call failed" in service.said(), seconds=120)
            time.sleep(2)
        waiting = service.spool().end_offset - service.sunk()
        assert waiting > 0, "events wait for room"
        disk.make_room()
        print(f"waiting {waiting}, caught up {service.wait_until_sunk(seconds=120):.1f} s after there was room")
        assert service.violations() == []
        assert service.audit().problems == []
