"""Licences of components as SPDX expressions, and the policy of a release.

Metadata of packages is used where it is unambiguous; `licences.toml` has the rest. A component
under the GPL or the AGPL without an alternative needs a reason in that file, a component without a
known licence an entry.
"""

import fnmatch
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from email.message import Message
from functools import cache
from pathlib import Path
from typing import Any

from license_expression import (  # type: ignore[import-untyped]
    ExpressionError,
    get_spdx_licensing,
)

TABLE = Path(__file__).with_name("licences.toml")
COPYLEFT = ("GPL-", "AGPL-", "SSPL-")
# Texts of the header License and of classifiers. BSD without a number of clauses stays as it is.
TEXTS = {
    "3-Clause BSD License": "BSD-3-Clause",
    "Apache 2.0": "Apache-2.0",
    "Apache License": "Apache-2.0",
    "Apache License 2.0": "Apache-2.0",
    "Apache License, Version 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "BSD": "LicenseRef-BSD",
    "BSD 3-Clause License": "BSD-3-Clause",
    "BSD License": "LicenseRef-BSD",
    "GNU General Public License v2 (GPLv2)": "GPL-2.0-only",
    "GNU Lesser General Public License v2 or later (LGPLv2+)": "LGPL-2.0-or-later",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
    "The MIT License (MIT)": "MIT",
}


@dataclass(frozen=True)
class Policy:
    """Content of licences.toml: licences and reasons by patterns of KIND:NAME."""

    licences: Mapping[str, str]
    accepted: Mapping[str, str]

    def licence(self, kind: str, name: str) -> str:
        """Return the licence of the table, or an empty text."""
        return _matching(self.licences, f"{kind}:{name}")

    def refusal(self, kind: str, name: str, licence: str) -> str:
        """Return why a component is refused, or an empty text."""
        if not licence:
            return f"{kind}:{name}: its licence is unknown; add it to [licences]"
        if requires_copyleft(licence) and not _matching(self.accepted, f"{kind}:{name}"):
            return f"{kind}:{name}: {licence} needs a reason in [accepted]"
        return ""

    def reason(self, kind: str, name: str) -> str:
        """Return the reason of the table, or an empty text."""
        return _matching(self.accepted, f"{kind}:{name}")


def read_policy(text: str | None = None) -> Policy:
    """Parse licences.toml. Tests pass other TOML text."""
    table = tomllib.loads(TABLE.read_text() if text is None else text)
    return Policy(table["licences"], table["accepted"])


def licence_of_package(metadata: Message, policy: Policy, name: str) -> str:
    """Return the licence of a Python package as SPDX expression; empty if it is unknown.

    The order: licences.toml, License-Expression, an unambiguous License, classifiers. Several
    classifiers are alternatives.
    """
    if known := policy.licence("python", name) or metadata.get("License-Expression", ""):
        return known
    header = (metadata.get("License") or "").strip()
    if header and "\n" not in header and is_expression(header):
        return header
    if TEXTS.get(header, "LicenseRef-BSD") != "LicenseRef-BSD":
        return TEXTS[header]
    prefix = "License :: OSI Approved :: "
    listed = [
        TEXTS.get(each.removeprefix(prefix), "")
        for each in metadata.get_all("Classifier", [])
        if each.startswith(prefix)
    ]
    if listed and all(listed):
        return " OR ".join(sorted(set(listed)))
    return TEXTS.get(header, "")


def is_expression(text: str) -> bool:
    """Return True for a valid expression of SPDX identifiers."""
    try:
        return _spdx().parse(text, validate=True) is not None
    except ExpressionError:
        return False


def requires_copyleft(expression: str) -> bool:
    """Return True if every choice of an SPDX expression contains the GPL, the AGPL or the SSPL."""
    return _requires(_spdx().parse(expression))


def _requires(node: Any) -> bool:
    # Operators have `operator` and `args`; a licence with an exception has neither.
    operator = getattr(node, "operator", "").strip()
    if operator == "OR":
        return all(map(_requires, node.args))
    if operator == "AND":
        return any(map(_requires, node.args))
    return str(node).startswith(COPYLEFT)


@cache
def _spdx() -> Any:
    return get_spdx_licensing()


def _matching(table: Mapping[str, str], name: str) -> str:
    """Return the value of the longest matching pattern."""
    found = [pattern for pattern in table if fnmatch.fnmatchcase(name, pattern)]
    return table[max(found, key=len)] if found else ""


def report(rows: Sequence[tuple[str, str, str, str, str]], policy: Policy) -> str:
    """Return THIRD_PARTY.md; rows are kind, name, version, licence and images."""
    lines = [
        "# Third-party components",
        "",
        "Components of the images of this release, with their licences as SPDX expressions. Texts",
        "of licences are in the images, in the folders `*.dist-info` of packages whose makers ship",
        "them. Libraries that a package contains count as part of the package.",
        "",
        "| kind | name | version | licence | images |",
        "|---|---|---|---|---|",
        *(f"| {' | '.join(row)} |" for row in rows),
        "",
        "## Copyleft licences",
        "",
        *(
            f"- {name} {version} ({licence}): {policy.reason(kind, name)}"
            for kind, name, version, licence, _ in rows
            if requires_copyleft(licence)
        ),
    ]
    return "\n".join(lines) + "\n"
