"""Spool under torn writes, full disks, second processes and wrong offsets."""

import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.chassis.errors import UnavailableError
from services.feedback.spool.log import OffsetOutOfRangeError, frame_bytes
from services.feedback.spool.spool import (
    BROKEN,
    Device,
    Spool,
    SpoolDamagedError,
    SpoolLockedError,
    inspect,
)
from tests.services.feedback.samples import entry
from tests.support.errors import refused

MANY = 1_000
ROOM = 1 << 20


class BadDisk:
    """Disk that fails on demand: after a part of a write, or in the sync."""

    def __init__(self) -> None:
        self.fail_write = self.fail_sync = False

    def device(self) -> Device:
        return Device(self._write, self._sync)

    def _write(self, descriptor: int, data: memoryview, position: int) -> int:
        if self.fail_write:
            os.pwrite(descriptor, data[: len(data) // 2], position)
            raise OSError(errno.ENOSPC, "no space left on device")
        return os.pwrite(descriptor, data, position)

    def _sync(self, descriptor: int) -> None:
        if self.fail_sync:
            raise OSError(errno.EIO, "input/output error")
        os.fdatasync(descriptor)


def open_spool(
    directory: Path, max_bytes: int = ROOM, segment_bytes: int = ROOM, device: Device | None = None
) -> Spool:
    return Spool(
        directory, max_bytes=max_bytes, segment_bytes=segment_bytes, device=device, now_us=lambda: 7
    )


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    spool = open_spool(tmp_path / "spool")
    yield spool
    spool.close()


def requests(spool: Spool, start: int = 0) -> list[str]:
    return [record.entry.event_id for record in spool.read(start, MANY, ROOM)]


def ids(*names: str) -> list[str]:
    return [entry(name).event_id for name in names]


def only_file(directory: Path) -> Path:
    (path,) = directory.glob("*.log")
    return path


def test_appended_records_are_read_in_order_with_offsets(spool: Spool) -> None:
    spool.append([entry("a"), entry("b")])
    spool.append([entry("c")])
    records = spool.read(1, MANY, ROOM)
    assert [(record.offset, record.append_us, record.entry) for record in records] == [
        (1, 7, entry("b")),
        (2, 7, entry("c")),
    ]


def test_a_read_that_loses_against_a_trim_is_out_of_range(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = open_spool(tmp_path / "spool")
    spool.append([entry("a")])
    locate = spool._locate

    def located_and_trimmed(*place: int) -> object:
        found = locate(*place)
        spool.trim(1)
        return found

    monkeypatch.setattr(spool, "_locate", located_and_trimmed)
    with pytest.raises(OffsetOutOfRangeError):
        spool.read(0, MANY, ROOM)
    spool.close()


def test_a_read_stops_at_its_limits_but_never_before_the_first_record(spool: Spool) -> None:
    spool.append([entry(name) for name in "abcd"])
    assert [record.offset for record in spool.read(1, 2, ROOM)] == [1, 2]
    assert [record.offset for record in spool.read(1, MANY, 1)] == [1]
    assert [record.offset for record in spool.read(0, MANY, 2 * frame_bytes(entry("a")))] == [0, 1]


def test_truncation_at_every_byte_of_the_last_record_loses_only_that_record(tmp_path: Path) -> None:
    directory = tmp_path / "spool"
    spool = open_spool(directory)
    spool.append([entry("a")])
    spool.append([entry("b")])
    whole = spool.bytes_used
    spool.append([entry("last")])
    end = spool.bytes_used
    spool.close()
    path = only_file(directory)
    data = path.read_bytes()
    assert end - whole == frame_bytes(entry("last"))
    for size in range(whole, end):
        path.write_bytes(data[:size])
        spool = open_spool(directory)
        assert requests(spool) == ids("a", "b"), f"cut at byte {size}"
        assert path.stat().st_size == whole
        spool.append([entry("after")])
        assert requests(spool) == ids("a", "b", "after")
        spool.close()


def test_a_flipped_bit_in_the_last_record_loses_only_that_record(tmp_path: Path) -> None:
    directory = tmp_path / "spool"
    spool = open_spool(directory)
    spool.append([entry("a")])
    whole = spool.bytes_used
    spool.append([entry("last")])
    spool.close()
    path = only_file(directory)
    data = path.read_bytes()
    for position in range(whole, len(data)):
        path.write_bytes(data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :])
        spool = open_spool(directory)
        assert requests(spool) == ids("a"), f"flipped in byte {position}"
        spool.close()


def test_damage_to_an_acknowledged_record_is_an_error(
    tmp_path: Path,
) -> None:
    directory = tmp_path / "spool"
    spool = open_spool(directory)
    spool.append([entry("a")])
    spool.append([entry("b")])
    spool.close()
    path = only_file(directory)
    data = bytearray(path.read_bytes())
    data[60] ^= 1
    path.write_bytes(data)
    with refused(SpoolDamagedError, field=path.name, reason="DAMAGED") as caught:
        open_spool(directory)
    assert re.search(r"\b0\b", caught.value.text), "the position"
    assert path.read_bytes() == data


def test_a_torn_group_whose_later_part_reached_the_disk_first_is_a_torn_tail(
    tmp_path: Path,
) -> None:
    directory = tmp_path / "spool"
    spool = open_spool(directory)
    spool.append([entry("a")])
    whole = spool.bytes_used
    spool.append([entry("b"), entry("c")])
    spool.close()
    path = only_file(directory)
    data = bytearray(path.read_bytes())
    data[whole + 20 : whole + 40] = bytes(20)
    path.write_bytes(data)
    spool = open_spool(directory)
    assert requests(spool) == ids("a")
    spool.close()


def test_a_full_spool_rejects_entries_until_a_trim(
    tmp_path: Path,
) -> None:
    size = frame_bytes(entry("a"))
    spool = open_spool(tmp_path / "spool", max_bytes=3 * size)
    spool.append([entry("a"), entry("b")])
    with refused(UnavailableError, reason="FEEDBACK_SPOOL_FULL"):
        spool.append([entry("c"), entry("d")])
    assert requests(spool) == ids("a", "b")
    spool.trim(2)
    spool.append([entry("c"), entry("d")])
    assert requests(spool, 2) == ids("c", "d")
    spool.close()


@pytest.mark.parametrize("fault", ["fail_write", "fail_sync"])
def test_a_full_disk_leaves_no_torn_record(tmp_path: Path, fault: str) -> None:
    disk, directory = BadDisk(), tmp_path / "spool"
    spool = open_spool(directory, device=disk.device())
    spool.append([entry("a")])
    size = spool.bytes_used
    setattr(disk, fault, True)
    with pytest.raises(UnavailableError):
        spool.append([entry("b")])
    assert (only_file(directory).stat().st_size, requests(spool)) == (size, ids("a"))
    spool.close()


def test_a_spool_continues_after_a_full_disk(tmp_path: Path) -> None:
    disk = BadDisk()
    spool = open_spool(tmp_path / "spool", device=disk.device())
    disk.fail_write = True
    with refused(UnavailableError, reason="FEEDBACK_SPOOL_DISK"):
        spool.append([entry("a")])
    disk.fail_write = False
    spool.append([entry("a")])
    assert requests(spool) == ids("a")
    spool.close()


def test_a_failed_roll_back_is_reported_as_unknown(
    tmp_path: Path,
) -> None:
    disk = BadDisk()
    spool = open_spool(tmp_path / "spool", device=disk.device())
    disk.fail_sync = True
    with refused(UnavailableError, reason=BROKEN) as caught:
        spool.append([entry("a")])
    assert isinstance(caught.value.__cause__, OSError)
    disk.fail_sync = False
    with refused(UnavailableError, reason=BROKEN) as caught:
        spool.append([entry("b")])
    assert caught.value.__cause__ is None, "the disk was not asked again"
    spool.close()


def test_an_input_output_error_breaks_the_spool_although_later_syncs_succeed(
    tmp_path: Path,
) -> None:
    """Finding EIO: the spool went on after an error that says that the disk lost data."""
    failures = [OSError(errno.EIO, "input/output error")]

    def sync(descriptor: int) -> None:
        if failures:
            raise failures.pop()
        os.fdatasync(descriptor)

    spool = open_spool(tmp_path / "spool", device=Device(sync=sync))
    for name in ("a", "b"):
        with refused(UnavailableError, reason=BROKEN):
            spool.append([entry(name)])
    spool.close()


def test_files_are_rotated_and_deleted_when_consumed(tmp_path: Path) -> None:
    directory = tmp_path / "spool"
    spool = open_spool(directory, segment_bytes=1)
    for name in "abc":
        spool.append([entry(name)])
    assert len(list(directory.glob("*.log"))) == 3
    spool.trim(2)
    assert (spool.start_offset, spool.end_offset) == (2, 3)
    assert requests(spool, 2) == ids("c")
    spool.close()


def test_a_consumed_spool_is_empty_and_keeps_its_end_after_a_restart(tmp_path: Path) -> None:
    spool = open_spool(tmp_path / "spool")
    spool.append([entry("a"), entry("b")])
    spool.trim(2)
    assert spool.bytes_used == 0
    spool.close()
    spool = open_spool(tmp_path / "spool")
    assert (spool.start_offset, spool.end_offset) == (2, 2)
    spool.close()


def test_an_offset_out_of_range_is_an_error(spool: Spool) -> None:
    spool.append([entry("a"), entry("b")])
    spool.trim(2)
    for offset in (0, 1, 3):
        with pytest.raises(OffsetOutOfRangeError):
            spool.read(offset, 1, 1)


def test_the_topic_id_persists_and_a_recreated_folder_is_another_log(tmp_path: Path) -> None:
    topic_ids = []
    for folder in ("one", "one", "two"):
        spool = open_spool(tmp_path / folder)
        topic_ids.append(spool.topic_id)
        spool.close()
    assert topic_ids[0] == topic_ids[1] != topic_ids[2]


def test_records_without_a_topic_id_are_refused(tmp_path: Path) -> None:
    spool = open_spool(tmp_path / "spool")
    spool.close()
    (tmp_path / "spool" / "topic_id").unlink()
    with refused(SpoolDamagedError, field="topic_id", reason="MISSING"):
        open_spool(tmp_path / "spool")


def test_a_missing_file_in_the_middle_is_refused(tmp_path: Path) -> None:
    directory = tmp_path / "spool"
    spool = open_spool(directory, segment_bytes=1)
    for name in "abc":
        spool.append([entry(name)])
    spool.close()
    _, missing, after = sorted(directory.glob("*.log"))
    missing.unlink()
    with refused(SpoolDamagedError, field=after.name, reason="MISSING", limit="1"):
        open_spool(directory)


def test_one_folder_has_one_process_and_can_still_be_inspected(tmp_path: Path) -> None:
    spool = open_spool(tmp_path / "spool")
    spool.append([entry("a")])
    with pytest.raises(SpoolLockedError):
        open_spool(tmp_path / "spool")
    (view,) = inspect(tmp_path / "spool")
    assert (view.topic_id, view.start_offset, view.end_offset) == (spool.topic_id, 0, 1)
    assert inspect(tmp_path / "nothing") == []
    spool.close()
