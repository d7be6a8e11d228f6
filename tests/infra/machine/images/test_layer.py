"""Equal content yields an equal layer, at any time and for any user."""

import os
import tarfile
from pathlib import Path

from infra.machine.images.layer import TIME, Layer, LayerWriter


def grow(folder: Path) -> Path:
    (folder / "b" / "left_out").mkdir(parents=True)
    (folder / "a.py").write_text("a")
    (folder / "b" / "c.sh").write_text("c")
    (folder / "b" / "c.sh").chmod(0o700)
    (folder / "b" / "left_out" / "d").write_text("d")
    (folder / "link.py").symlink_to("a.py")
    return folder


def write(source: Path, path: Path) -> Layer:
    with LayerWriter(path) as writer:
        writer.tree(source, "/app", lambda found: found.name == "left_out")
        writer.folder("/tmp", 0o1777)
        writer.link("/bin/sh", "/usr/bin/bash")
        writer.data("/app/a.py", b"comes too late")
    return writer.layer


def test_equal_content_yields_equal_layer(tmp_path: Path) -> None:
    first = write(grow(tmp_path / "first"), tmp_path / "first.tar.gz")
    again = grow(tmp_path / "again")
    for path in again.rglob("*"):
        os.utime(path, (1, 1), follow_symlinks=False)
    (again / "b" / "c.sh").chmod(0o755)
    second = write(again, tmp_path / "second.tar.gz")
    assert (first.blob.sha256, first.diff_id) == (second.blob.sha256, second.diff_id)
    (again / "a.py").write_text("b")
    assert write(again, tmp_path / "third.tar.gz").diff_id != first.diff_id


def test_layer_has_parents_first_executable_modes_and_no_owner(
    tmp_path: Path,
) -> None:
    layer = write(grow(tmp_path / "source"), tmp_path / "layer.tar.gz")
    with tarfile.open(layer.blob.path) as tar:
        entries = {entry.name: entry for entry in tar.getmembers()}
        assert tar.extractfile("app/a.py").read() == b"a"  # type: ignore[union-attr]
        assert tar.extractfile("app/link.py").read() == b"a"  # type: ignore[union-attr]
    assert list(entries) == [
        "app",
        "app/a.py",
        "app/link.py",
        "app/b",
        "app/b/c.sh",
        "tmp",
        "bin",
        "bin/sh",
    ]
    assert (entries["app/a.py"].mode, entries["app/b/c.sh"].mode, entries["tmp"].mode) == (
        0o644,
        0o755,
        0o1777,
    )
    assert {(entry.uid, entry.gid, entry.uname, entry.mtime) for entry in entries.values()} == {
        (0, 0, "", TIME)
    }
    assert entries["bin/sh"].linkname == "/usr/bin/bash"
    assert layer.blob.size == layer.blob.path.stat().st_size
