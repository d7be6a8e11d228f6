"""Entries of a version in CHANGELOG.md (Keep a Changelog 1.1.0)."""

import re
from collections.abc import Sequence

from infra.release.errors import ReleaseError

KINDS = ("added", "changed", "deprecated", "removed", "fixed", "security")


def changes_of(text: str, version: str) -> Sequence[tuple[str, str]]:
    """Return kind and text of each entry of a version, in their order.

    An entry is a list item; its further lines are indented.

    Raises:
        ReleaseError: the version has no section, or a heading in it is no known kind.
    """
    section = re.search(
        rf"^## \[{re.escape(version)}\][^\n]*$(.*?)(?=^## |^\[|\Z)", text, re.MULTILINE | re.DOTALL
    )
    if section is None:
        raise ReleaseError(
            f"CHANGELOG.md has no section [{version}]", field="CHANGELOG.md", reason="MISSING"
        )
    found = []
    for heading, body in re.findall(r"^### ([^\n]+)\n(.*?)(?=^### |\Z)", section[1], re.M | re.S):
        kind = heading.strip().lower()
        if kind not in KINDS:
            raise ReleaseError(
                f"CHANGELOG.md: the heading {heading} of [{version}] is none of {', '.join(KINDS)}",
                field="CHANGELOG.md",
                limit=", ".join(KINDS),
            )
        items = re.findall(r"^- (.*(?:\n  .*)*)", body, re.MULTILINE)
        found += [(kind, " ".join(item.split())) for item in items]
    return found
