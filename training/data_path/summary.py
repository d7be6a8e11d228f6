"""Figures of a corpus: the funnel by stage and rule, languages, lengths, hosts, examples."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from durable_files.files import write_json
from training.corpus.document import Stage, host_of
from training.data_path.clean import Examples

HOSTS = 100  # most frequent ones in the summary
MAX_HOSTS = 100_000  # counted at once; rare ones are dropped beyond


@dataclass
class Summary:
    """Figures of a build.

    Attributes:
        items: records of all inputs.
        stages: records and bytes by stage and rule.
        languages: kept documents and their bytes by language.
        sources: for each source the records by stage, and the bytes that were kept.
        licences: kept documents by licence.
        lengths: kept documents by length; the key n stands for 2**n to 2**(n+1) - 1 bytes.
        hosts: kept documents of the most frequent hosts.
        redacted: placeholders of personal data by kind.
        examples: dropped texts by stage and rule.
    """

    items: int = 0
    stages: dict[str, dict[str, dict[str, int]]] = field(default_factory=dict)
    languages: dict[str, dict[str, int]] = field(default_factory=dict)
    sources: dict[str, dict[str, int]] = field(default_factory=dict)
    licences: dict[str, int] = field(default_factory=dict)
    lengths: dict[str, int] = field(default_factory=dict)
    hosts: dict[str, int] = field(default_factory=dict)
    redacted: dict[str, int] = field(default_factory=dict)
    examples: list[dict[str, Any]] = field(default_factory=list)

    @property
    def kept(self) -> int:
        """Return the number of documents in the result."""
        return self.sizes(Stage.KEPT)["documents"]

    @property
    def without_licence(self) -> int:
        """Return the number of documents in the result that have no licence."""
        return self.licences.get("", 0)

    def sizes(self, stage: Stage) -> dict[str, int]:
        """Return documents and bytes of a stage over all rules."""
        rules = self.stages.get(stage, {}).values()
        return {unit: sum(rule[unit] for rule in rules) for unit in ("documents", "bytes")}

    def add(self, row: Mapping[str, Any]) -> None:
        """Count a row of the document log."""
        _count(self.stages.setdefault(row["stage"], {}), row["rule"], row["size"])
        source = self.sources.setdefault(row["source"], {})
        source[row["stage"]] = source.get(row["stage"], 0) + 1
        if row["stage"] != Stage.KEPT:
            return
        source["kept bytes"] = source.get("kept bytes", 0) + row["size"]
        _count(self.languages, row["language"], row["size"])
        for counts, key in (
            (self.licences, row["licence"]),
            (self.lengths, str(max(0, row["size"].bit_length() - 1))),
            (self.hosts, host_of(row["url"])),
        ):
            counts[key] = counts.get(key, 0) + 1
        if len(self.hosts) > MAX_HOSTS:
            self.hosts = _most_frequent(self.hosts, MAX_HOSTS // 2)

    def complete(
        self, items: int, redacted: Iterable[Mapping[str, int]], examples: Iterable[Path]
    ) -> None:
        """Add the figures of the parts.

        Args:
            items: number of records of all parts.
            redacted: placeholders by kind of each part.
            examples: JSON files of the parts.

        Raises:
            RuntimeError: the log has another number of rows than the inputs have records.
        """
        rows = sum(self.sizes(stage)["documents"] for stage in Stage)
        if rows != items:
            raise RuntimeError(f"the document log has {rows} rows for {items} records")
        self.items = items
        total: Counter[str] = Counter()
        for counts in redacted:
            total.update(counts)
        self.redacted = dict(sorted(total.items()))
        self.hosts = _most_frequent(self.hosts, HOSTS)
        # The rows of dropped records came in the order of the files, which must not show.
        self.stages = {
            stage: dict(sorted(rules.items())) for stage, rules in sorted(self.stages.items())
        }
        self.sources = {
            name: dict(sorted(stages.items())) for name, stages in sorted(self.sources.items())
        }
        shown = Examples()
        for path in examples:
            shown.add_rows(json.loads(path.read_text()))
        self.examples = shown.rows()

    def write(self, path: Path) -> None:
        """Write the summary as JSON, atomically."""
        write_json(path, asdict(self))

    @classmethod
    def read(cls, path: Path) -> Summary:
        """Read the summary from its file."""
        return cls(**json.loads(path.read_text()))


def _count(counts: dict[str, dict[str, int]], key: str, size: int) -> None:
    entry = counts.setdefault(key, {"documents": 0, "bytes": 0})
    entry["documents"] += 1
    entry["bytes"] += size


def _most_frequent(counts: Mapping[str, int], limit: int) -> dict[str, int]:
    ordered = sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))
    return dict(ordered[:limit])
