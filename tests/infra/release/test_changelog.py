"""CHANGELOG.md is readable, and its newest version is that of the chart."""

import re

import pytest

from infra.machine.images.catalogue import ROOT
from infra.release.build import CHART
from infra.release.changelog import KINDS, changes_of
from infra.release.chart import chart_metadata
from infra.release.errors import ReleaseError
from tests.support.errors import refused

TEXT = """# Changelog

## [Unreleased]

## [0.2.0] - 2026-12-01

Words before the first heading.

### Added

- One entry
  on two lines.
- Another.

### Fixed

- A defect.

## [0.1.0]

### Added

- The first.

[0.2.0]: https://example.com
"""


def test_entries_have_their_kind() -> None:
    assert changes_of(TEXT, "0.2.0") == [
        ("added", "One entry on two lines."),
        ("added", "Another."),
        ("fixed", "A defect."),
    ]
    assert changes_of(TEXT, "0.1.0") == [("added", "The first.")]
    assert changes_of(TEXT, "Unreleased") == []


@pytest.mark.parametrize(
    ("text", "attributes"),
    [
        (TEXT.replace("[0.2.0]", "[0.3.0]"), {"reason": "MISSING"}),
        (TEXT.replace("### Fixed", "### Repaired"), {"limit": ", ".join(KINDS)}),
    ],
)
def test_a_missing_version_and_an_unknown_kind_are_refused(
    text: str, attributes: dict[str, str]
) -> None:
    with refused(ReleaseError, field="CHANGELOG.md", **attributes):
        changes_of(text, "0.2.0")


def test_changelog_begins_with_the_version_of_the_chart() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    versions = re.findall(r"^## \[(.+?)\]", text, re.MULTILINE)
    assert versions[:2] == ["Unreleased", str(chart_metadata(CHART)["version"])]
    assert changes_of(text, versions[1])
