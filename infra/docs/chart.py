"""Writes the chart's README: every value with its default and what its comment says. `--check`
compares and writes nothing.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from infra.docs.written import write_or_compare

CHART = Path(__file__).resolve().parents[2] / "charts" / "thumbwheel"
PAGE = CHART / "README.md"
MOST_CHARACTERS = 60
HEAD = """# The chart

Thumbwheel on Kubernetes 1.30 or newer, by Helm 3.17 or newer and 4.x.

```bash
helm install chat charts/thumbwheel --namespace chat --create-namespace --values my-values.yaml --wait
helm test chat --namespace chat
```

Values for usual cases are in `ci/`. What is wrong is refused by name: single values by `values.schema.json`, combinations by
`templates/_validation.tpl`. This page is written by `python -m infra.docs.chart`; `make check` compares.

| value | default | what it says |
|---|---|---|
"""


def main() -> None:
    text = (CHART / "values.yaml").read_text()
    defaults = yaml.safe_load(text)
    rows = [
        f"| `{path}` | {shown(at(defaults, path))} | {said} |" for path, said in described(text)
    ]
    page = HEAD + "\n".join(rows) + "\n"
    complaint = "the chart's README is not what its values say: run python -m infra.docs.chart"
    write_or_compare(PAGE, page, complaint)


def described(text: str) -> Iterator[tuple[str, str]]:
    """Each key that has a value on its line or a comment which begins with `# --`, by its path, and
    the comment.
    """
    above: list[str] = []
    said: list[str] = []
    for line in text.splitlines():
        if comment := re.fullmatch(r" *# (-- )?(.*)", line):
            said = [comment[2]] if comment[1] else [*said, comment[2]] if said else []
        elif key := re.match(r"( *)([A-Za-z]+):( *[^ #])?", line):
            above = [*above[: len(key[1]) // 2], key[2]]
            if said or key[3]:
                yield ".".join(above), " ".join(said).replace("|", "\\|")
            said = []


def at(values: Any, path: str) -> Any:
    for key in path.split("."):
        values = values[key]
    return values


def shown(value: Any) -> str:
    """As code, cut where it is long."""
    text = json.dumps(value)
    return f"`{text if len(text) <= MOST_CHARACTERS else text[: MOST_CHARACTERS - 1] + '…'}`"


if __name__ == "__main__":
    main()
