"""A corpus from its inputs: one verdict for each record, equal bytes in each run, removals."""

import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.archives import gzip_members, page_url, response_record
from tests.support.errors import refused
from tests.training.data_path.corpora import (
    Silent,
    article,
    build_quietly,
    content,
    documents,
    page,
    settings,
    write_table,
)
from training.artifacts.manifest import write_manifest
from training.cluster.parts import Workers
from training.corpus.decontamination import EvaluationItem
from training.corpus.document import CorpusError, Stage
from training.corpus.quality.content import ContentConfig
from training.data.packages import DataError
from training.data.token_shards import (
    SHARDS_HASH,
    ShardConfig,
    open_shards,
    shards_hash,
    write_shards,
)
from training.data_path import phases, pipeline, toolkit
from training.data_path.build_command import funnel
from training.data_path.config import CorpusConfig
from training.data_path.log import entries, find
from training.data_path.pipeline import build
from training.data_path.removal import (
    REMOVALS,
    By,
    artifacts_in,
    builds_with,
    models_of,
    record,
    shards_with,
)
from training.data_path.tables import read_rows

MAIL = "Write to jane.doe@example.com or to the editors, who answer within a week of your letter. "
GERMAN = (
    "Der Leuchtturm wurde im Jahr 1850 gebaut und steht seitdem auf der kleinen Insel im Meer. "
)


@pytest.fixture
def config(tmp_path: Path) -> CorpusConfig:
    """Two sources: a table of web pages, and a folder of pages."""
    rows = [page(number) for number in range(8)]
    rows += [
        {"text": GERMAN * 8, "url": "https://example.org/german"},
        {"text": article(3), "url": "https://copies.example.com/3"},  # exact duplicate
        {"text": article(4) + " The end.", "url": "https://copies.example.com/4"},
        {"text": MAIL + article(20), "url": "https://example.org/mail"},
        {"text": "", "url": "https://example.org/empty"},
    ]
    write_table(tmp_path / "in" / "web" / "a.jsonl", rows)
    write_table(tmp_path / "in" / "web" / "b.jsonl", [page(number) for number in range(30, 36)])
    manual = tmp_path / "in" / "manual"
    manual.mkdir()
    for number in range(40, 43):
        text = f"<html><body><main><p>{article(number)}</p></main></body></html>"
        (manual / f"{number}.html").write_text(text)
    return settings(
        tmp_path,
        {"name": "web", "folder": "in/web", "licence": "CC-BY-4.0"},
        {"name": "manual", "folder": "in/manual", "licence": "MIT"},
    )


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "corpus"


def stages(out: Path) -> dict[str, str]:
    return {entry.url: entry.stage for entry in entries(out / "result" / "log")}


def test_each_record_has_one_verdict(config: CorpusConfig, out: Path) -> None:
    summary = build_quietly(config, out)

    found = list(entries(out / "result" / "log"))
    assert len(found) == len({entry.id for entry in found}) == summary.items == 22
    assert Counter(entry.stage for entry in found) == {
        Stage.KEPT: 18,
        Stage.LANGUAGE: 1,
        Stage.READ: 1,
        Stage.EXACT_DUPLICATE: 1,
        Stage.NEAR_DUPLICATE: 1,
    }
    kept = {entry.id for entry in found if entry.stage == Stage.KEPT}
    assert {row["id"] for row in documents(out)} == kept
    assert summary.kept == len(kept)
    assert summary.redacted == {"email": 1}
    assert summary.licences == {"CC-BY-4.0": 15, "MIT": 3}


def test_duplicate_names_the_kept_document(config: CorpusConfig, out: Path) -> None:
    build_quietly(config, out)

    log = out / "result" / "log"
    pair = [*find(log, "https://example.org/3"), *find(log, "https://copies.example.com/3")]
    dropped, kept = sorted(pair, key=lambda entry: entry.stage == Stage.KEPT)
    assert (dropped.stage, dropped.value) == (Stage.EXACT_DUPLICATE, kept.id)
    assert find(log, kept.id) == [kept]
    assert find(log, "https://example.org/none") == []


def test_personal_data_is_replaced(config: CorpusConfig, out: Path) -> None:
    build_quietly(config, out)

    (text,) = (row["text"] for row in documents(out) if row["url"].endswith("/mail"))
    assert text.startswith("Write to <EMAIL_1> or to the editors")


def test_content_filter_drops_listed_words_without_examples(
    config: CorpusConfig, out: Path, tmp_path: Path
) -> None:
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "en").write_text("windmill\n")
    content_config = ContentConfig(lists=str(tmp_path / "lists"))

    summary = build_quietly(replace(config, content_filter=True, content=content_config), out)

    assert summary.sizes(Stage.CONTENT)["documents"] > 0
    assert not [row for row in documents(out) if "windmill" in row["text"].lower()]
    assert not [row for row in summary.examples if row["stage"] == Stage.CONTENT]


def test_changed_lists_and_items_are_applied(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_table(tmp_path / "in" / "a.jsonl", [page(number) for number in range(4)])
    urls, words = tmp_path / "lists" / "spam" / "urls", tmp_path / "words" / "en"
    for file in (urls, words):
        file.parent.mkdir(parents=True)
        file.write_text("nothing\n")
    items: list[EvaluationItem] = []
    monkeypatch.setattr(toolkit, "evaluation_items", lambda: iter(items))
    config = settings(
        tmp_path,
        {"name": "web", "folder": "in"},
        url_lists="lists",
        url_categories=["spam"],
        content_filter=True,
        content={"lists": "words"},
        decontaminate=True,
        shards={},
    )

    def found() -> list[str]:
        build_quietly(config, out)
        return [stages(out)[f"https://example.org/{number}"] for number in range(4)]

    assert found() == [Stage.KEPT] * 4
    items.append(EvaluationItem("task", 1, (article(1),)))
    assert found() == [Stage.KEPT, Stage.DECONTAMINATION, Stage.KEPT, Stage.KEPT]
    urls.write_text("example.org/2\n")
    assert found() == [Stage.KEPT, Stage.DECONTAMINATION, Stage.URL, Stage.KEPT]
    words.write_text(" ".join(article(3).split()[:9]) + "\n")
    assert found() == [Stage.KEPT, Stage.DECONTAMINATION, Stage.URL, Stage.CONTENT]
    times = write_times(out)
    found()
    assert write_times(out) == times
    assert len(list((out / toolkit.ITEMS).iterdir())) == 1


@pytest.mark.parametrize(
    ("changes", "field", "reason"),
    [
        ({"url_lists": "lists"}, "url_categories", "UNUSED"),
        ({"url_lists": "lists", "url_categories": ["scam"]}, "url_categories", "UNUSED"),
        ({"url_lists": "lists", "url_categories": ["spam", "x"]}, "url_categories", "UNKNOWN"),
        ({"url_categories": ["spam"]}, "url_categories", "UNKNOWN"),
        ({"url_lists": "none", "url_categories": ["spam"]}, "url_lists", "MISSING"),
    ],
)
def test_wrong_lists_end_a_build_before_it_begins(
    out: Path, tmp_path: Path, changes: dict[str, Any], field: str, reason: str
) -> None:
    write_table(tmp_path / "in" / "a.jsonl", [page(1)])
    (tmp_path / "lists" / "spam").mkdir(parents=True)
    (tmp_path / "lists" / "spam" / "domains").write_text("spam.example\n")
    config = settings(tmp_path, {"name": "web", "folder": "in"}, **changes)
    with refused(CorpusError, field=field, reason=reason):
        build_quietly(config, out)
    assert not (out / pipeline.WORK).exists()


def test_documents_of_the_shards_lead_to_their_urls(config: CorpusConfig, out: Path) -> None:
    build_quietly(config, out)

    result = out / "result"
    shards = open_shards(result / "shards", result / "tokenizer")
    urls = {}
    for split in ("train", "held_out"):
        raw = (result / "shards" / f"{split}-ids.bin").read_bytes()
        identifiers = [raw[place : place + 16].hex() for place in range(0, len(raw), 16)]
        urls[split] = [find(result / "log", one)[0].url for one in identifiers]
        assert len(identifiers) == getattr(shards, split).documents > 0
    assert sorted(urls["train"] + urls["held_out"]) == sorted(row["url"] for row in documents(out))


def test_order_of_the_work_does_not_matter(
    config: CorpusConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_quietly(config, tmp_path / "first")

    def backwards(
        self: Workers, function: Callable[[Any], Any], parts: Sequence[Any]
    ) -> Iterator[tuple[Any, Any]]:
        for part in reversed(parts):
            yield part, function(part)

    monkeypatch.setattr(Workers, "each", backwards)
    build_quietly(config, tmp_path / "second")

    assert content(tmp_path / "first") == content(tmp_path / "second")


def crawl(folder: Path, *files: Sequence[bytes]) -> CorpusConfig:
    folder.mkdir()
    for number, records in enumerate(files):
        (folder / f"{number}.warc.gz").write_bytes(b"".join(gzip_members(records)))
    return settings(folder, {"name": "web", "folder": ".", "licence": "MIT", "weight": 1.0})


def html(text: str) -> bytes:
    return f"<html><body><main><p>{text}</p></main></body></html>".encode()


def test_order_and_files_of_the_records_do_not_matter(tmp_path: Path) -> None:
    """Neither for documents, log, shards and figures, nor after removals."""
    records = [response_record(number, html(article(number))) for number in range(10)]
    later = records[2].replace(b"2026-01-02", b"2026-03-04")
    missing = response_record(20, b"nothing", b"HTTP/1.1 404 Not Found\r\n")
    records += [
        later,  # of a later crawl, without a change
        records[3],
        records[3],
        response_record(30, html(article(4))),
        response_record(31, html(article(5) + " The end.")),
        missing,
        missing,
        response_record(40, html(GERMAN * 8)),
        response_record(40, html(GERMAN * 8)).replace(b"2026-01-02", b"2026-03-04"),
        response_record(41, html(GERMAN * 9)),
    ]
    together = crawl(tmp_path / "first", records)
    apart = crawl(tmp_path / "second", records[13::-1], records[:13:-1])
    outs = {tmp_path / "together": together, tmp_path / "apart": apart}
    summaries = [build_quietly(config, out) for out, config in outs.items()]

    assert summaries[0] == summaries[1]
    found = list(entries(tmp_path / "together" / "result" / "log"))
    assert len(found) == len({entry.id for entry in found}) == len(records)
    kept = {row["id"] for row in documents(tmp_path / "together")}
    assert kept == {entry.id for entry in found if entry.stage == Stage.KEPT}
    repeated = [entry for entry in found if entry.url.endswith(("/2", "/3"))]
    assert Counter(entry.stage for entry in repeated) == {Stage.KEPT: 2, Stage.EXACT_DUPLICATE: 3}
    assert {entry.value for entry in repeated} - {""} == kept & {entry.id for entry in repeated}
    assert content(tmp_path / "together") == content(tmp_path / "apart")

    record(tmp_path / "together", By.URL, page_url(3))
    shutil.copy(tmp_path / "together" / REMOVALS, tmp_path / "apart")  # at the same time
    for out, config in outs.items():
        build_quietly(config, out)

    assert stages(tmp_path / "apart")[page_url(3)] == Stage.REMOVAL
    assert content(tmp_path / "together") == content(tmp_path / "apart")


def test_removal_by_licence_leaves_the_same_record_of_another_licence(
    tmp_path: Path, out: Path
) -> None:
    rows = [page(1, license="A"), page(1, license="B"), page(2, license="A")]
    write_table(tmp_path / "in" / "a.jsonl", rows)
    config = settings(tmp_path, {"name": "web", "folder": "in"}, shards={})
    assert build_quietly(config, out).kept == 2
    for licence, kept in (("A", 1), ("B", 0)):
        record(out, By.LICENCE, licence)
        assert build_quietly(config, out).kept == kept


def test_records_without_a_licence_are_counted_and_dropped_by_a_setting(
    tmp_path: Path, out: Path
) -> None:
    write_table(tmp_path / "in" / "a.jsonl", [page(1), page(2, license="MIT"), page(3)])
    config = settings(tmp_path, {"name": "web", "folder": "in"}, shards={})

    summary = build_quietly(config, out)

    assert (summary.kept, summary.without_licence) == (3, 2)
    assert "without licence            2" in funnel(summary)
    assert "2 of the kept records have no licence" in (out / "result" / "report.html").read_text()

    summary = build_quietly(replace(config, require_licence=True), out)

    assert (summary.kept, summary.without_licence) == (1, 0)
    assert "without licence" not in funnel(summary)
    (entry,) = find(out / "result" / "log", "https://example.org/1")
    assert (entry.stage, entry.rule) == (Stage.READ, "no licence")


def test_settings_without_a_source_of_the_corpus_are_refused_unless_replaced(
    tmp_path: Path, out: Path
) -> None:
    for number, name in enumerate(("one", "two")):
        write_table(tmp_path / name / "a.jsonl", [page(number)])

    def of(**folders: str) -> CorpusConfig:
        sources = ({"name": name, "folder": folder} for name, folder in folders.items())
        return settings(tmp_path, *sources, shards={})

    build_quietly(of(web="one"), out)
    assert build_quietly(of(web="one", more="two"), out).kept == 2, "a further source"
    before = content(out), (out / "settings.json").read_bytes()

    for other, differing in ((of(more="two"), "web"), (of(web="two", more="two"), "web")):
        with refused(CorpusError, field="sources", reason="CONFLICT") as error:
            build_quietly(other, out)
        assert f"source {differing} was {tmp_path}/one and is " in str(error.value)
        assert "source more" not in str(error.value)
        assert (content(out), (out / "settings.json").read_bytes()) == before

    assert build(of(more="two"), out, 1, Silent(), replaces=True).kept == 1
    assert stages(out) == {"https://example.org/1": Stage.KEPT}


@pytest.mark.parametrize("is_interrupted", [False, True])
def test_weights_are_compared_with_the_bytes_of_distinct_texts(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_interrupted: bool
) -> None:
    small = [page(number) | {"text": article(number) + " Ü" * 9} for number in range(5)]
    large = [page(number) for number in range(10, 30)]
    write_table(tmp_path / "in" / "small" / "a.jsonl", small)
    write_table(tmp_path / "in" / "large" / "a.jsonl", large)
    write_table(tmp_path / "in" / "large" / "b.jsonl", large)
    sources = ({"name": name, "folder": f"in/{name}", "weight": 1} for name in ("small", "large"))
    config = settings(tmp_path, *sources, shards={})

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    if is_interrupted:  # the records of the finished parts are read from their files
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(pipeline, "LogWriter", interrupted)
            build_quietly(config, out)

    build_quietly(config, out)

    found = list(entries(out / "result" / "log"))
    sizes = Counter[str]()
    for entry in found:
        if entry.stage in (Stage.KEPT, Stage.MIXING):
            sizes[entry.source] += entry.size
    share = sizes["small"] / sizes["large"]
    assert {entry.value for entry in found if entry.stage == Stage.MIXING} == {f"share {share:.4g}"}


def write_times(out: Path) -> dict[Path, int]:
    files = [path for path in out.rglob("*") if path.is_file() and path.name != "lock"]
    return {path: path.stat().st_mtime_ns for path in files}


def test_second_build_does_nothing(config: CorpusConfig, out: Path) -> None:
    first = build_quietly(config, out)
    times = write_times(out)

    assert build_quietly(config, out) == first
    assert write_times(out) == times


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("number", [1, 4, 9, 14, 19, 24])
def test_interrupted_build_is_continued(
    config: CorpusConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, moment: str
) -> None:
    build_quietly(config, tmp_path / "whole")
    replace, calls = Path.replace, 0

    def interrupted(self: Path, target: Path) -> Path:
        nonlocal calls
        calls += 1
        if calls == number and moment == "before":
            raise KeyboardInterrupt
        result = replace(self, target)
        if calls == number:
            raise KeyboardInterrupt
        return result

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            build_quietly(config, tmp_path / "parts")
    build_quietly(config, tmp_path / "parts")

    assert content(tmp_path / "parts") == content(tmp_path / "whole")


def test_build_interrupted_while_the_result_is_replaced(
    config: CorpusConfig, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_quietly(config, out)
    write_table(tmp_path / "in" / "web" / "c.jsonl", [page(50)])
    replace = Path.replace

    def interrupted(self: Path, target: Path) -> Path:
        if self.name == "building":
            raise KeyboardInterrupt
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            build_quietly(config, out)

    assert build_quietly(config, out).items == 22 + 1
    assert stages(out)["https://example.org/50"] == Stage.KEPT


def test_new_and_vanished_inputs(config: CorpusConfig, out: Path, tmp_path: Path) -> None:
    build_quietly(config, out)
    write_table(tmp_path / "in" / "web" / "c.jsonl", [page(number) for number in (50, 51)])
    (tmp_path / "in" / "web" / "b.jsonl").unlink()

    summary = build_quietly(config, out)

    assert summary.items == 22 + 2 - 6
    found = stages(out)
    assert found["https://example.org/50"] == Stage.KEPT
    assert "https://example.org/30" not in found


def test_changed_input_is_read_again(config: CorpusConfig, out: Path, tmp_path: Path) -> None:
    build_quietly(config, out)
    write_table(tmp_path / "in" / "web" / "b.jsonl", [page(60)])

    assert build_quietly(config, out).items == 22 - 5
    assert stages(out)["https://example.org/60"] == Stage.KEPT


def test_removal_gives_the_shards_of_a_build_without_the_documents(
    config: CorpusConfig, out: Path, tmp_path: Path
) -> None:
    """The copies of the removed originals come back, since nothing is kept in their place."""
    build_quietly(config, out)
    record(out, By.HOST, "example.org")
    build_quietly(config, out)

    rest = tmp_path / "in" / "web" / "a.jsonl"
    lines = [line for line in rest.read_text().splitlines() if "//example.org/" not in line]
    rest.write_text("\n".join(lines) + "\n")
    (tmp_path / "in" / "web" / "b.jsonl").write_text("\n")
    build_quietly(config, tmp_path / "without")

    after = stages(out)
    assert after["https://copies.example.com/3"] == Stage.KEPT
    assert after["https://example.org/5"] == Stage.REMOVAL
    removed, without = content(out), content(tmp_path / "without")
    for name in removed:
        if name.startswith(("documents", "shards")):
            assert removed[name] == without[name], name


def test_removed_texts_are_in_no_file(config: CorpusConfig, out: Path) -> None:
    build_quietly(config, out)
    identifier = find(out / "result" / "log", "https://example.org/mail")[0].id
    record(out, By.URL, "https://example.org/mail")
    build_quietly(config, out)

    (entry,) = find(out / "result" / "log", "https://example.org/mail")
    assert (entry.id, entry.stage, entry.rule) == (identifier, Stage.REMOVAL, "url")
    assert not [row for row in documents(out) if row["id"] == identifier]
    work = [row for path in (out / "work").glob("*.parquet") for row in read_rows(path)]
    assert not [row for row in work if row["id"] == identifier and row.get("text")]


def test_models_that_saw_a_document_are_named(
    config: CorpusConfig, out: Path, tmp_path: Path
) -> None:
    build_quietly(config, out)
    models = tmp_path / "models"
    data = {"shards": "shards", SHARDS_HASH: shards_hash(out / "result" / "shards")}
    for version, parents, seen in (
        ("base", (), data),
        ("chat", ("base",), None),
        ("other", (), {"shards": "x", SHARDS_HASH: "0" * 64}),
    ):
        folder = models / version
        folder.mkdir(parents=True)
        (folder / "weights").write_text(version)
        write_manifest(folder, kind="model", version=version, parents=parents, data=seen)
    identifiers = [entry.id for entry in find(out / "result" / "log", "https://example.org/1")]
    record(out, By.URL, "https://example.org/1")
    build_quietly(config, out)  # the models remain known after the shards have changed

    found = artifacts_in([models, models / "base"])  # overlapping folders count once
    seen_by = models_of(builds_with(out, identifiers), found)
    assert seen_by == [("base", models / "base"), ("chat", models / "chat")]
    assert builds_with(out, ["0" * 32]) == set()


def test_models_trained_on_the_documents_themselves_are_named(
    config: CorpusConfig, out: Path, tmp_path: Path
) -> None:
    build_quietly(config, out)
    work, result = tmp_path / "work", out / "result"
    shards = ShardConfig((result / "documents",), result / "tokenizer", work / "shards-300", 0.5)
    write_shards(shards)  # as `train pretrain --texts` does
    (work / "mine").mkdir()
    (work / "mine" / "weights").write_text("")
    data = {SHARDS_HASH: shards_hash(work / "shards-300")}
    write_manifest(work / "mine", kind="model", version="mine", data=data)
    identifiers = [entry.id for entry in find(result / "log", "https://example.org/1")]

    found = artifacts_in([work])
    assert models_of(builds_with(out, identifiers), found) == []
    assert models_of(shards_with(found, identifiers), found) == [("mine", work / "mine")]
    assert shards_with(found, ["0" * 32]) == set()


def test_folder_with_other_files_is_refused(config: CorpusConfig, out: Path) -> None:
    out.mkdir()
    (out / "letter.txt").write_text("mine")

    with refused(CorpusError, field="out", reason="EXISTS"):
        build_quietly(config, out)


def test_exception_in_a_step_loses_no_finished_part(
    config: CorpusConfig, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = phases.clean_part
    cleaned: list[str] = []

    def failing(task: Any) -> Any:
        if task.input.name == "b.jsonl":
            raise OSError("disk")
        cleaned.append(task.input.name)
        return real(task)

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "clean_part", failing)
        with pytest.raises(OSError, match="disk"):
            build_quietly(config, out)

    def counting(task: Any) -> Any:
        cleaned.append(task.input.name)
        return real(task)

    monkeypatch.setattr(pipeline, "clean_part", counting)
    build_quietly(config, out)

    assert sorted(cleaned) == ["/", "a.jsonl", "b.jsonl"]


def test_largest_file_is_first(
    config: CorpusConfig, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[str] = []
    real_clean, real_finish = phases.clean_part, phases.finish_part

    def clean(task: Any) -> Any:
        begun.append(task.input.name)
        return real_clean(task)

    def finish(*arguments: Any) -> Any:
        begun.append(str(arguments[-1][0].stat().st_size))
        return real_finish(*arguments)

    monkeypatch.setattr(pipeline, "clean_part", clean)
    monkeypatch.setattr(pipeline, "finish_part", finish)
    build_quietly(config, out)

    assert begun[:3] == ["a.jsonl", "b.jsonl", "/"]
    assert begun[3:] == sorted(begun[3:], key=int, reverse=True)


def test_missing_items_of_the_evaluation_end_a_build_before_it_begins(
    config: CorpusConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pod without network cannot install them; the first phases take hours."""
    monkeypatch.setenv("THUMBWHEEL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    out = tmp_path / "corpus"
    out.mkdir()
    with refused(DataError, field="locks/evaluation_data.txt"):
        build_quietly(replace(config, decontaminate=True), out)
    assert not (out / pipeline.WORK).exists()
