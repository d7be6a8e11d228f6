"""A corpus from its inputs: `build` runs all phases, from top to bottom.

1. Clean each input file: read, extract, judge (`clean`). Files run in parallel.
2. Find exact and near duplicates over all files (`duplicates`).
3. Finish each file: drop duplicates and evaluation items, replace personal data (`finish`).
4. Mix the sources and shuffle the documents (`mixing`), and write the document log (`log`).
5. Tokenize the documents into shards, which `pretrain` reads.

A repeated build continues an interrupted one: a finished file of a phase is kept while its input
and the settings are the same. The result has the same bytes for any number of workers and
interruptions, any order of the records, and any division of them into files.

Folders of a corpus: `work` (phase 1), `building` (phases 2 to 5, until they are complete), `result`
(documents, log, tokenizer, shards, summary.json, report.html), `builds` (hashes of the documents in
shards, for removals), `items` and `url_lists` (from `toolkit.prepare`).
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from itertools import accumulate, chain
from pathlib import Path

from durable_files.files import DRAFT_PREFIX, make_directory, publish
from training.artifacts.manifest import MANIFEST, hash_file, plain, write_manifest
from training.cluster.parts import Workers
from training.corpus.document import CorpusError, Stage, Verdict
from training.corpus.duplicates.clusters import find_duplicates_in
from training.data.corpus import read_texts_of
from training.data.token_shards import ShardConfig, write_shards
from training.data_path import toolkit
from training.data_path.clean import PartFigures, verdict_row
from training.data_path.config import SETTINGS, CorpusConfig, check_sources, write_settings
from training.data_path.finish import FinishFigures, document_of, runs_of
from training.data_path.log import LOG, RESULT, LogWriter
from training.data_path.mixing import DocumentFiles, merged, shares, stays
from training.data_path.phases import (
    DUPLICATES,
    CleanTask,
    Part,
    apply_removals,
    clean_part,
    fingerprint,
    finish_part,
)
from training.data_path.removal import BUILDS, REMOVALS, remember_build, removals
from training.data_path.report import PhaseCosts, compare_tokenizers, write_report
from training.data_path.summary import Summary
from training.data_path.tables import Row, TableWriter, count_rows, read_rows
from training.reporting.progress import Display
from training.runs import LOCK, Step, StepState, exclusive
from training.tokenization.byte_pairs import train_tokenizer

WORK, BUILDING, FINISHED = "work", "building", "finished"
BEFORE = "result.before"
SAMPLE_FILES = 8  # of 64 MB, for a new tokenizer; about 1 KB of memory for each distinct word
DOCUMENTS, SHARDS, TOKENIZER = "documents", "shards", "tokenizer"
SUMMARY, REPORT, KEY = "summary.json", "report.html", "key"
FORMAT = 2  # of identifiers and files in `work`; others are made again
RESULT_FORMAT = 2  # of documents and log; other results are made again from `work`


def build(
    config: CorpusConfig, out: Path, workers: int, display: Display, *, replaces: bool = False
) -> Summary:
    """Build the corpus in a folder, or continue or update the one in it.

    If no text remains, there are the log and the report, but neither documents nor shards.

    Args:
        out: folder of the corpus; another program's files in it are refused.
        workers: input files at once.
        replaces: accept settings without a source of the last build.

    Raises:
        CorpusError: a setting or an input is unusable, or the folder has another corpus.
        LoopRunningError: another build of the same folder is running.
        DataError: a data package is missing and could not be installed.
    """
    inputs = toolkit.checked_inputs(config)
    _check_folder(out)
    if not replaces:
        check_sources(config, out)
    display = costs = PhaseCosts(display)
    with exclusive(out, "a build of the corpus"), Workers(workers) as pool:
        with _Progress(display, "prepare", 1):
            data = toolkit.prepare(config, out)
        write_settings(config, out)
        parts = _clean(config, data, inputs, out, pool, display)
        key = _key(config, data, out, parts)
        building, result = out / BUILDING, out / RESULT
        if _read(result / KEY) == key:
            return Summary.read(result / SUMMARY)
        if _read(building / KEY) != key:
            shutil.rmtree(building, ignore_errors=True)
            building.mkdir()
            (building / KEY).write_text(key)
        if not (building / REPORT).exists():
            duplicates = _find_duplicates(config, building, parts, display)
            finished = _finish(config, data, building, parts, duplicates, pool, display)
            summary = _write_documents(config, building, parts, finished, display)
            tokenizer = _tokenizer(config, building, display) if summary.kept else None
            if tokenizer is not None:
                _tokenize(config, tokenizer, building, display)
                remember_build(out, building / SHARDS)
            with _Progress(display, "compare tokenizers", 1) as progress:
                compared = compare_tokenizers(
                    building / DOCUMENTS, tokenizer, lambda phrase: progress.show(0.0, phrase)
                )
            write_report(
                building / REPORT, out.name, summary, parts.values(), compared, costs.phases
            )
        _publish(building, result)
        return Summary.read(result / SUMMARY)


def _clean(
    config: CorpusConfig,
    data: toolkit.Data,
    inputs: Sequence[toolkit.Input],
    out: Path,
    pool: Workers,
    display: Display,
) -> dict[Part, PartFigures]:
    """Clean the inputs that are new or changed, and apply removals to all; return all parts."""
    folder = out / WORK
    folder.mkdir(exist_ok=True)
    settings = fingerprint([FORMAT, plain(config.cleaning), data.cleaning])
    tasks = [
        CleanTask(config, data, one, folder, fingerprint([settings, one.stamp()])) for one in inputs
    ]
    names = {task.part.name for task in tasks}
    for path in folder.iterdir():
        if path.name.partition(".")[0] not in names:
            path.unlink()
    figures = {task.part: task.part.figures() for task in tasks}
    left = [task for task in tasks if figures[task.part].stamp != task.stamp]
    # The largest first; otherwise one worker could end with a large file while others wait.
    left.sort(key=lambda task: -task.input.size)
    with _Progress(display, "clean", len(tasks), len(tasks) - len(left)) as progress:
        for task, one in pool.each(clean_part, left):
            figures[task.part] = one
            progress.move(1, f"{task.input.name}: {one.kept:,} of {one.items:,} kept")
    found = removals(out)
    for part in figures:
        apply_removals(part, found)
    return figures


def _find_duplicates(
    config: CorpusConfig, building: Path, parts: Iterable[Part], display: Display
) -> Path:
    path = building / "duplicates.parquet"
    if path.exists():
        return path
    scratch = building / "scratch"
    signatures = [part.signatures for part in parts]
    with _Progress(display, "duplicates", 1), TableWriter(path, DUPLICATES) as table:
        duplicates = find_duplicates_in(
            signatures, scratch, least_similarity=config.least_similarity
        )
        for found in duplicates:
            if config.near_duplicates or found.stage is Stage.EXACT_DUPLICATE:
                table.add({"number": found.number, "stage": found.stage, "kept": found.kept})
    shutil.rmtree(scratch, ignore_errors=True)
    return path


def _finish(
    config: CorpusConfig,
    data: toolkit.Data,
    building: Path,
    parts: Collection[Part],
    duplicates: Path,
    pool: Workers,
    display: Display,
) -> dict[Path, FinishFigures]:
    """Finish all parts; return their records by table of the cleaned texts."""
    folder = building / FINISHED
    folder.mkdir(exist_ok=True)
    work = partial(finish_part, config, data, duplicates, folder)
    tables = [part.cleaned for part in parts]
    work_parts = list(zip(tables, accumulate(map(count_rows, tables), initial=0), strict=False))
    work_parts.sort(key=lambda one: -one[0].stat().st_size)  # as in `_clean`
    figures = {}
    with _Progress(display, "finish", len(parts)) as progress:
        for (cleaned, _), one in pool.each(work, work_parts):
            figures[cleaned] = one
            progress.move(1, "")
    return figures


def _write_documents(
    config: CorpusConfig,
    building: Path,
    parts: Mapping[Part, PartFigures],
    finished: Mapping[Path, FinishFigures],
    display: Display,
) -> Summary:
    """Write documents and log; repeated as a whole after an interruption."""
    path = building / SUMMARY
    if path.exists():
        return Summary.read(path)
    folder, log_folder, scratch = (building / name for name in (DOCUMENTS, LOG, "scratch"))
    for leftover in (folder, log_folder, scratch):
        shutil.rmtree(leftover, ignore_errors=True)
    sizes: Counter[str] = Counter()
    for part in parts:
        sizes[part.source] += finished[part.cleaned].text_bytes
    kept = shares(sizes, {one.name: one.weight for one in config.sources})
    runs = list(runs_of(building / FINISHED))
    tables = (path for part in parts for path in (part.verdicts, part.removed) if path.exists())
    verdicts = [*tables, *sorted((building / FINISHED).glob("*.verdicts.parquet"))]
    total = sum(map(count_rows, (*verdicts, *runs)))
    summary = Summary()
    with (
        _Progress(display, "documents", total) as progress,
        LogWriter(log_folder, total) as log,
        DocumentFiles(folder) as documents,
    ):

        def note(row: Row) -> None:
            log.add(row)
            summary.add(row)
            progress.move(1, "")

        for row in chain.from_iterable(map(read_rows, verdicts)):
            note(row)
        for row in merged(runs, scratch):
            share = kept[row["source"]]
            verdict = Verdict(Stage.KEPT, "", row["personal_data"])
            if stays(row["id"], share, config.seed):
                documents.add(row)
            else:
                verdict = Verdict(Stage.MIXING, "weight of the source", f"share {share:.4g}")
            note(verdict_row(document_of(row), verdict))
    shutil.rmtree(scratch, ignore_errors=True)
    summary.complete(
        items=sum(one.items for one in parts.values()),
        redacted=[one.redacted for one in finished.values()],
        examples=[
            *(part.examples for part in parts),
            *(building / FINISHED).glob("*.examples.json"),
        ],
    )
    summary.write(path)
    return summary


def _tokenizer(config: CorpusConfig, building: Path, display: Display) -> Path | None:
    """Return the tokenizer of the settings, trained on the documents if they say so."""
    if config.shards.vocabulary is None:
        return config.shards.tokenizer
    folder = building / TOKENIZER
    if not (folder / MANIFEST).exists():
        # The documents are shuffled, so the first files are a sample; pairs need much memory.
        files = sorted((building / DOCUMENTS).iterdir())[:SAMPLE_FILES]
        with _Progress(display, "tokenizer", 1):
            texts = chain.from_iterable(map(read_texts_of, files))
            train_tokenizer(texts, config.shards.vocabulary, folder)
            hashes = {file.name: hash_file(file) for file in files}
            write_manifest(folder, kind="tokenizer", version=folder.name, data=hashes)
    return folder


def _tokenize(config: CorpusConfig, tokenizer: Path, building: Path, display: Display) -> None:
    shards = ShardConfig(
        sources=(building / DOCUMENTS,),
        tokenizer_directory=tokenizer,
        output_directory=building / SHARDS,
        held_out_fraction=config.shards.held_out_fraction,
        seed=config.seed,
        licence=config.licence,
    )
    with _Progress(display, "tokenize", 1) as progress:
        write_shards(
            shards,
            lambda one: progress.show(
                one.read_bytes / max(1, one.all_bytes), f"{one.tokens:,} tokens"
            ),
        )


def _publish(building: Path, result: Path) -> None:
    """Put the complete folder in the place of the result before."""
    shutil.rmtree(building / FINISHED, ignore_errors=True)
    (building / "duplicates.parquet").unlink(missing_ok=True)
    before = result.with_name(BEFORE)
    shutil.rmtree(before, ignore_errors=True)
    if result.exists():
        result.rename(before)
    publish(building, result)
    shutil.rmtree(before, ignore_errors=True)


def _key(
    config: CorpusConfig, data: toolkit.Data, out: Path, parts: Mapping[Part, PartFigures]
) -> str:
    """Return a hash of everything that determines phases 2 to 5."""
    tokenizer = config.shards.tokenizer
    return fingerprint(
        [
            RESULT_FORMAT,
            [[part.name, figures.stamp] for part, figures in parts.items()],
            plain(config.finishing),
            "" if data.items is None else data.items.name,
            [[removal.by, removal.value] for removal in removals(out)],
            "" if tokenizer is None else hash_file(tokenizer / "tokenizer.json"),
        ]
    )


def _check_folder(out: Path) -> None:
    """Create the folder.

    Raises:
        CorpusError: the folder contains something else.
    """
    make_directory(out)
    own = {WORK, BUILDING, RESULT, BEFORE, BUILDS, REMOVALS, SETTINGS, LOCK}
    own |= {toolkit.ITEMS, toolkit.URL_LISTS}
    names = {path.name for path in out.iterdir() if not path.name.startswith(DRAFT_PREFIX)}
    foreign = sorted(names - own)
    if foreign:
        raise CorpusError(
            f"out: {out} contains {foreign[0]}, which is no part of a corpus",
            field="out",
            reason="EXISTS",
        )


def _read(path: Path) -> str:
    return path.read_text() if path.exists() else ""


class _Progress:
    """A phase as a step of a display."""

    def __init__(self, display: Display, name: str, total: int, done: int = 0) -> None:
        self._display, self._total, self._done = display, total, done
        self._step = Step(name, StepState.RUNNING)

    def __enter__(self) -> _Progress:
        self._display.begin(self._step)
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self._step.progress, self._step.state = 1.0, StepState.DONE
            self._display.end(self._step)

    def move(self, done: int, detail: str) -> None:
        """Count further finished units of the phase."""
        self._done += done
        self.show(self._done / max(1, self._total), detail or f"{self._done:,} of {self._total:,}")

    def show(self, share: float, detail: str) -> None:
        """Show a share of the phase."""
        self._step.progress, self._step.detail = share, detail
        self._display.move(self._step)
