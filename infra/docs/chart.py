"""Generate the chart's README: every value with its default and its comment.

A value without a description is refused. `--check` compares and writes nothing.
"""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from infra.docs.output import write_or_compare

CHART = Path(__file__).resolve().parents[2] / "charts" / "thumbwheel"
PAGE = CHART / "README.md"
SCHEMA = CHART / "values.schema.json"
MAX_CHARACTERS = 60
HEAD = Path(__file__).with_name("chart_head.md")
# Descriptions of values that mean the same wherever they occur.
EVERYWHERE = {
    "accessModes": "Access modes of the claim.",
    "affinity": "Affinity of the pods.",
    "deadlineSeconds": "Maximum duration of the Job, in seconds.",
    "extraEnv": "Additional environment variables of the containers.",
    "extraVolumeMounts": "Additional volume mounts of the containers.",
    "extraVolumes": "Additional volumes of the pods.",
    "nodeSelector": "Labels of the nodes for the pods.",
    "podAnnotations": "Additional annotations of the pods.",
    "podLabels": "Additional labels of the pods.",
    "priorityClassName": "Priority class of the pods.",
    "replicas": "Number of pods.",
    "resources": "Requests and limits of the containers.",
    "settings": "Settings of the service by name; docs/settings.md lists them.",
    "storageClass": "Storage class of the claim. Empty: the default of the cluster.",
    "timeZone": "Time zone of the schedule. Empty: that of the cluster.",
    "tolerations": "Tolerations of the pods.",
}


def main() -> None:
    text = (CHART / "values.yaml").read_text()
    defaults = yaml.safe_load(text)
    described = dict(describe_values(text))
    if missing := sorted(path for path, comment in described.items() if not comment):
        sys.exit(f"values.yaml has values without a description: {', '.join(missing)}")
    rows = [
        f"| `{path}` | {shown(at(defaults, path))} | {comment} |"
        for path, comment in described.items()
    ]
    page = HEAD.read_text() + "\n".join(rows) + "\n"
    complaint = "charts/thumbwheel/README.md is stale: run python -m infra.docs.chart"
    write_or_compare(PAGE, page, complaint)


def describe_values(text: str) -> Iterator[tuple[str, str]]:
    """Yield keys and their comments from values.yaml.

    Included are keys with a value on the same line and keys with a comment that starts with `# --`.
    A key without a comment has that of EVERYWHERE, or an empty one.
    """
    above: list[str] = []
    comment_lines: list[str] = []
    for line in text.splitlines():
        if comment := re.fullmatch(r" *# (-- )?(.*)", line):
            comment_lines = (
                [comment[2]]
                if comment[1]
                else [*comment_lines, comment[2]]
                if comment_lines
                else []
            )
        elif key := re.match(r"( *)([A-Za-z0-9]+):( *[^ #])?", line):
            above = [*above[: len(key[1]) // 2], key[2]]
            if comment_lines or key[3]:
                comment_text = " ".join(comment_lines) or EVERYWHERE.get(key[2], "")
                yield ".".join(above), comment_text.replace("|", "\\|")
            comment_lines = []


def at(values: Any, path: str) -> Any:
    for key in path.split("."):
        values = values[key]
    return values


def shown(value: Any) -> str:
    """Format a value as code, truncated if long."""
    text = json.dumps(value)
    return f"`{text if len(text) <= MAX_CHARACTERS else text[: MAX_CHARACTERS - 1] + '…'}`"


if __name__ == "__main__":
    main()
