"""First phase: each input file becomes a table of cleaned texts and a table of verdicts.

Files are independent of each other, so they run in parallel and are repeated alone.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from durable_files.files import write_json
from training.corpus.document import Document, Item, Origin, Page, Rejected, Stage, Verdict
from training.data_path.tables import CLEANED, VERDICTS, Row, TableWriter

EXAMPLES, EXAMPLE_CHARACTERS = 10, 400
KIBIBYTE = 1024  # unit of ru_maxrss on Linux

Step = Callable[[Document], Document | Verdict]


@dataclass(frozen=True)
class Steps:
    """Steps of the first phase, built once in each process.

    Attributes:
        url: verdict on an address.
        extract: text of a page.
        later: steps on texts by stage, in order.
        extraction_clock: processor time of this process and of the process that extracts.
        requires_licence: drop records without a licence.
    """

    url: Callable[[str], Verdict | None]
    extract: Callable[[Page], Document | Verdict]
    later: tuple[tuple[Stage, Step], ...]
    extraction_clock: Callable[[], float] = time.process_time
    requires_licence: bool = False


@dataclass
class PartFigures:
    """Record of a cleaned part. Times and memory vary with the machine and leave the result as is.

    Attributes:
        stamp: identifies the input and the settings; "" until all files of the part are written.
        seconds: processor time by stage.
        largest_bytes: highest resident memory of the process, without that of the extraction.
        items: number of records.
        kept: number of texts in the table.
        read_bytes: size of the input file.
    """

    stamp: str = ""
    seconds: dict[str, float] = field(default_factory=dict)
    largest_bytes: int = 0
    items: int = 0
    kept: int = 0
    read_bytes: int = 0

    @contextmanager
    def timed(self, stage: Stage, clock: Callable[[], float] = time.process_time) -> Iterator[None]:
        """Add the time of the block to a stage."""
        began = clock()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + clock() - began

    def write(self, path: Path) -> None:
        """Write the record, which marks the part as cleaned."""
        self.largest_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIBIBYTE
        write_json(path, asdict(self))


class Examples:
    """The beginnings of a few dropped texts by stage and rule: those with the lowest identifiers.

    Texts of the content filter are never kept: they may be harmful.
    """

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], dict[str, dict[str, str]]] = {}

    def add(self, origin: Origin, verdict: Verdict, text: str) -> None:
        """Consider a dropped text."""
        if verdict.stage is Stage.CONTENT or not text:
            return
        example = {**asdict(origin), "value": verdict.value, "text": text[:EXAMPLE_CHARACTERS]}
        self._consider(verdict.stage, verdict.rule, example)

    def add_rows(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Consider the examples of another collection, from `rows`."""
        for row in rows:
            for example in row["examples"]:
                self._consider(row["stage"], row["rule"], example)

    def _consider(self, stage: str, rule: str, example: dict[str, str]) -> None:
        found = self._found.setdefault((stage, rule), {})
        known = found.setdefault(example["id"], example)
        # Of records with the same identifier, the choice depends on their columns alone.
        found[example["id"]] = min(known, example, key=lambda one: tuple(one.values()))
        if len(found) > EXAMPLES:
            del found[max(found)]

    def rows(self) -> list[dict[str, Any]]:
        """Return the examples by stage and rule, each with the lowest identifier first."""
        return [
            {"stage": stage, "rule": rule, "examples": [found[id] for id in sorted(found)]}
            for (stage, rule), found in sorted(self._found.items())
        ]


def clean(
    items: Iterable[Item],
    steps: Steps,
    cleaned: Path,
    verdicts: Path,
    examples: Path,
    on_item: Callable[[], None] = lambda: None,
) -> PartFigures:
    """Judge each item of a part and write both tables.

    Args:
        cleaned: table of the texts that remain.
        verdicts: table of the dropped items, each with stage, rule and value.
        examples: JSON file with a few dropped texts by rule.
        on_item: called after each item.
    """
    figures, shown = PartFigures(), Examples()
    with TableWriter(cleaned, CLEANED) as texts, TableWriter(verdicts, VERDICTS) as dropped:
        iterator = iter(items)
        while True:
            with figures.timed(Stage.READ):
                item = next(iterator, None)
            if item is None:
                break
            figures.items += 1
            judged, last = _judge(item, steps, figures)
            if isinstance(judged, Verdict):
                text = last.text if isinstance(last, Document) else ""
                shown.add(item.origin, judged, text)
                dropped.add(verdict_row(last, judged))
            else:
                figures.kept += 1
                texts.add(
                    {**asdict(judged.origin), "language": judged.language, "text": judged.text}
                )
            on_item()
        write_json(examples, shown.rows())
    return figures


def verdict_row(item: Item, verdict: Verdict) -> Row:
    """Return the row of the document log for an item in the state in which it was judged."""
    if isinstance(item, Page):
        size = len(item.content)
    else:
        size = len(item.text.encode()) if isinstance(item, Document) else 0
    language = item.language if isinstance(item, Document) else ""
    return {
        **asdict(item.origin),
        "language": language,
        "size": size,
        "stage": verdict.stage,
        "rule": verdict.rule,
        "value": verdict.value,
    }


def _judge(item: Item, steps: Steps, figures: PartFigures) -> tuple[Document | Verdict, Item]:
    """Return the cleaned document or the verdict, and the item as it was before the verdict."""
    if isinstance(item, Rejected):
        return item.verdict, item
    if steps.requires_licence and not item.origin.licence:
        return Verdict(Stage.READ, "no licence"), item
    with figures.timed(Stage.URL):
        refused = steps.url(item.origin.url) if item.origin.url else None
    if refused is not None:
        return refused, item
    current: Item = item
    if isinstance(item, Page):
        with figures.timed(Stage.EXTRACTION, steps.extraction_clock):
            extracted = steps.extract(item)
        if isinstance(extracted, Verdict):
            return extracted, item
        current = extracted
    assert isinstance(current, Document)
    for stage, step in steps.later:
        with figures.timed(stage):
            judged = step(current)
        if isinstance(judged, Verdict):
            return judged, current
        current = judged
    return current, current
