"""The manuals of Debian packages are unpacked into a folder for each, without links."""

from pathlib import Path

import pytest

from infra.install import documentation
from infra.install.documentation import MANUALS
from infra.machine.servers.errors import ServerError
from tests.support.errors import refused


def test_installed_manuals_have_their_start_pages(documentation: Path) -> None:
    for manual in MANUALS:
        start = documentation / manual.name / manual.start
        assert b"<a " in start.read_bytes()
    assert len(list(documentation.rglob("*.html"))) > 6000
    assert not [path for path in documentation.rglob("*") if path.is_symlink()]


def test_missing_manuals_are_named_with_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THUMBWHEEL_CACHE", str(tmp_path))
    part = documentation.part()
    with refused(ServerError, field=part.home.name, reason="MISSING") as caught:
        documentation.find_installed()
    assert documentation.COMMAND in caught.value.text
