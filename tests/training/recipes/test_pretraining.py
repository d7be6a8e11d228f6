"""Pre-training recipes: sizes, plans, the power law, and both commands."""

import io
import itertools
import json
import math
import re
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.errors import refused
from tests.training.refused_commands import refused_command
from tests.training.stages.pretrain_and_die import TEXTS, pretrain_config
from tests.training.toys import write_lines
from training.__main__ import main
from training.artifacts.manifest import Manifest, verify_manifest
from training.cluster import runner
from training.cluster.group import Group
from training.cluster.runner import run_stages
from training.data.token_shards import SHARDS_HASH, ShardConfig, shards_hash, write_shards
from training.decoding.arguments import chat_command
from training.decoding.prompts import is_pretrained
from training.errors import ConfigError
from training.progress_log import SAMPLES, read_samples
from training.recipes.custom.assignments import settable, word
from training.recipes.pretraining import plan as plan_module
from training.recipes.pretraining import texts
from training.recipes.pretraining.commands import FIXED, PLANNED, settable_fields
from training.recipes.pretraining.plan import SpeedWatcher, planned
from training.recipes.pretraining.recipe import (
    PROMPTS,
    SIZES,
    SIZES_VOCABULARY,
    pretraining,
)
from training.recipes.pretraining.scaling import (
    Point,
    Size,
    course,
    fit,
    steps_for_size,
    write_scaling,
)
from training.recipes.pretraining.shapes import SHAPES
from training.recipes.pretraining.texts import Prepared
from training.reporting import tracking as tracking_option
from training.reporting.progress import Lines, StageDisplay
from training.reporting.tracking import Tracking
from training.runtime.context import Progress
from training.stage_record import read_record
from training.stages.pretrain import PretrainConfig, accumulate
from training.tokenization.byte_pairs import train_tokenizer, write_tokenizer


def test_sizes_match_their_names() -> None:
    for size, wanted in zip(SIZES, (0.3e6, 1e6, 3e6), strict=True):
        assert size.parameters(SIZES_VOCABULARY) == pytest.approx(wanted, rel=0.1)


def test_sizes_see_equally_many_tokens_a_parameter() -> None:
    for size in SIZES:
        tokens = steps_for_size(size, SIZES_VOCABULARY, 2.0) * size.batch_rows * 256
        assert tokens / size.parameters(SIZES_VOCABULARY) == pytest.approx(2.0, rel=0.01)


def test_a_plan_is_made_once_and_stored(tmp_path: Path) -> None:
    config = pretrain_config(tmp_path)
    path, said, began = tmp_path / "plan.json", list[str](), time.monotonic() - 30
    plan = planned(path, "tiny", 60.0, config, began, said.append)
    assert [re.findall(r"\d+", line) for line in said] == [["10", "60"]], (
        "what is timed is said, with both times"
    )
    assert plan.spent_seconds >= 30, "to prepare and to time is of the minutes too"
    assert plan.steps == round(
        (60 * 60 - plan.spent_seconds) * 0.85 * plan.tokens_per_second / (8 * 32)
    )
    assert {f"{plan.steps:,}", "256", plan.dtype} <= set(plan.text(256).split())
    change = "--set machine.dtype=float32"
    assert change in replace(plan, dtype="bfloat16").text(256)
    assert change not in replace(plan, dtype="float32").text(256)
    assert planned(path, "tiny", 60.0, config, began, said.append) == plan
    assert len(said) == 1, "what is known is not timed"
    with refused(ConfigError, field="minutes", reason="MISMATCH", limit="60.0"):
        planned(path, "tiny", 2.0, config, began, said.append)
    with refused(ConfigError, field="shape", reason="MISMATCH", limit="tiny"):
        planned(path, "wide", 60.0, config, began, said.append)
    again = planned(path, "tiny", 2.0, config, began, said.append, is_followed=False)
    assert (again.minutes, planned(path, "tiny", 2.0, config, began, said.append)) == (2.0, again)


def test_a_busy_machine_is_timed_once_and_a_plan_is_never_tiny(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, taken = itertools.count(0.0, 40.0), list[int]()  # each reading is 40 seconds later

    def accumulated(*of: Any) -> tuple[float, int]:
        taken.append(1)
        return accumulate(*of)

    monkeypatch.setattr(
        plan_module, "time", SimpleNamespace(perf_counter=clock.__next__, monotonic=clock.__next__)
    )
    monkeypatch.setattr(plan_module, "accumulate", accumulated)
    plan = planned(
        tmp_path / "plan.json", "tiny", 2.0, pretrain_config(tmp_path), 0.0, lambda _: None
    )
    assert len(taken) == 1
    assert plan.tokens_per_second == pytest.approx(8 * 32 / (2 * 40 + 40)), (
        "two microbatches, and what follows"
    )
    assert plan.steps == 20
    assert re.search(r"\b2 minutes\b", plan.text(256))
    assert re.search(r"\b1 minute\b", replace(plan, minutes=1.0).text(256))
    assert "minute" not in replace(plan, steps=21).text(256), (
        "only of the fewest it is said that they are few"
    )


def test_timing_ends_when_two_steps_are_similar(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clock values: the start, then for each step its start, end of training and end."""
    steps = (9.0, 1.0, 0.8, 0.6, 0.15, 0.2, 0.14)
    times, now = [0.0], 0.0
    for seconds in steps:
        times += [now, now + seconds, now + seconds]
        now += seconds
    times = [time / 2 for time in times]  # nine seconds would include all steps
    monkeypatch.setattr(plan_module, "time", SimpleNamespace(perf_counter=iter(times).__next__))
    assert plan_module.tokens_per_second(pretrain_config(tmp_path)) == pytest.approx(
        8 * 32 / (2 * 0.07)
    )


@pytest.mark.parametrize(
    ("planned_seconds", "seconds", "expected"),
    [
        # The mean of eleven steps is 28 s / 11; the next comparison is 20 s later.
        (2.0, [2.0] * 11 + [8.0] * 4 + [9.0] * 3, [(2.55, 2.0, 15.3), (8.0, 2.55, 24.0)]),
        (10.0, [2.0] * 13, [(2.0, 10.0, 4.0)]),
        (2.0, [2.0] * 11 + [99.0], []),
    ],
    ids=["slower", "faster", "end"],
)
def test_new_estimate_is_printed_when_a_step_takes_another_time(
    planned_seconds: float,
    seconds: list[float],
    expected: list[tuple[float, ...]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = itertools.accumulate(seconds)
    monkeypatch.setattr(plan_module, "time", SimpleNamespace(monotonic=clock.__next__))
    out = io.StringIO()
    watcher = SpeedWatcher(StageDisplay(Lines(out), ()), planned_seconds)
    watcher.begin("tiny")
    for step in range(1, len(seconds) + 1):
        watcher.move("tiny", Progress("pretrain", step, len(seconds), {}))
    watcher.end("tiny")
    # Time of a step, the last estimate, and the time of the rest.
    estimates = [
        tuple(map(float, re.findall(r"([\d.]+) s\b", line)))
        for line in out.getvalue().splitlines()
        if "estimate" in line
    ]
    assert estimates == expected


def test_fit_recovers_the_power_law() -> None:
    points = [Point(flops, 40 * flops**-0.08) for flops in (1e12, 1e13, 1e14)]
    law = fit(points)
    assert law.coefficient == pytest.approx(40)
    assert law.exponent == pytest.approx(0.08)
    assert law.largest_error < 1e-9
    off = fit([*points[:2], replace(points[2], bits_per_byte=1.1 * points[2].bits_per_byte)])
    assert off.exponent < 0.08
    assert off.largest_error > 0.01
    with refused(ConfigError, field="points", reason="TOO_SMALL"):
        fit(points[:1])


def test_a_curve_counts_compute_from_predicted_tokens() -> None:
    steps = [
        Progress(
            "pretrain", n, 4, {"tokens": 100.0} | ({"bits_per_byte": 4.0 / n} if n % 2 == 0 else {})
        )
        for n in range(1, 5)
    ]
    assert course("toy", 10, steps) == Size(
        "toy", 10, 400, (Point(6 * 10 * 200, 2.0), Point(6 * 10 * 400, 1.0))
    )


def test_the_page_shows_each_size_and_the_law(tmp_path: Path) -> None:
    sizes = [
        Size(
            f"{n}M",
            n * 1000,
            n * 2000,
            (Point(n * 1e11, 4 / n), Point(n * 1e12, 3 * (n * 1e12) ** -0.05)),
        )
        for n in (1, 2, 4)
    ]
    law = write_scaling(sizes, 2.0, tmp_path)
    page = (tmp_path / "scaling.html").read_text()
    assert page.count("<polyline points=") == 4
    assert "FLOPs<sup>−0.0500</sup>" in page
    assert all(f"<td>{size.name}</td><td>{size.parameters:,}</td>" in page for size in sizes)
    assert f"{law.at(4e13):.4f}" in page
    kept = json.loads((tmp_path / "scaling.json").read_text())
    assert kept["law"]["exponent"] == pytest.approx(0.05)
    assert [size["tokens"] for size in kept["sizes"]] == [2000, 4000, 8000]


def test_a_foreign_texts_file_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    foreign = write_lines(tmp_path / "texts.jsonl", [{"text": "mine"}])
    command = ["pretrain", "--shape", "one_million", "--work", str(tmp_path)]
    refused_command(command, capsys, field="work", reason="EXISTS")
    assert [path.name for path in tmp_path.iterdir()] == ["texts.jsonl"]
    foreign.unlink()
    summaries = tmp_path / "packages" / texts.SUMMARIES
    summaries.parent.mkdir(parents=True)
    summaries.write_text(json.dumps({"B": {"extract": "second"}, "A": {"extract": "first"}}))
    monkeypatch.setattr(texts, "installed", lambda _: tmp_path / "packages")
    written = texts.write_texts(tmp_path)
    assert [json.loads(line)["text"] for line in written.read_text().splitlines()] == [
        "first",
        "second",
    ]
    assert texts.write_texts(tmp_path) == written
    written.write_text(written.read_text() + '{"text": "mine"}\n')
    with refused(ConfigError, field="work", reason="EXISTS"):
        texts.write_texts(tmp_path)


TINY = (
    "--set",
    "batch_rows=2",
    "--set",
    "microbatch_rows=2",
    "--set",
    "evaluation_tokens=256",
    "--set",
    "steps=2",
)


def test_fields_and_a_user_tokenizer_are_applied(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    write_lines(folder / "mine.jsonl", [{"text": f"{n} {TEXTS[n % 80]}"} for n in range(400)])
    (folder / "page.html").write_text("<p>skipped")
    train_tokenizer(TEXTS, 300, tmp_path / "own")
    read = [
        "--shape",
        "one_million",
        "--texts",
        str(folder),
        "--work",
        str(tmp_path / "work"),
    ]
    command = [
        "pretrain",
        *read,
        "--tokenizer",
        str(tmp_path / "own"),
        *TINY,
        "--set",
        "machine.threads=1",
    ]
    assert main([*command, "--set", "seed=1"]) == 0
    said = capsys.readouterr().out
    assert "skipped files: 1 (1 .html)" in said
    assert f"  chat: {chat_command(tmp_path / 'work' / 'one_million')}\n" in said
    assert is_pretrained(tmp_path / "work" / "one_million")
    assert not list((tmp_path / "work").glob("*-plan.json")), "nothing is timed"
    made = verify_manifest(tmp_path / "work" / "one_million")
    assert (made.report["steps"], made.config["seed"], made.config["model_json"]["vocab_size"]) == (
        2,
        1,
        300,
    )
    assert (tmp_path / "work" / "one_million" / "tokenizer.json").read_bytes() == (
        tmp_path / "own" / "tokenizer.json"
    ).read_bytes()
    assert main([*command, "--set", "seed=1", "--set", "checkpoint_every_steps=1"]) == 0, (
        "it changes no weight"
    )
    record = read_record(tmp_path / "work" / "runs" / "one_million")
    assert record is not None
    assert len(record.starts) == 1, "it is finished already"
    longer = ["steps=200" if word == "steps=2" else word for word in command]
    for more, field, was, now in (
        ([*command, "--set", "seed=2"], "seed", "1", "2"),
        ([*longer, "--set", "seed=1"], "steps", "2", "200"),
    ):
        _, line = refused_command(more, capsys, field=field, reason="MISMATCH", limit=was)
        assert "one_million" in line
        assert re.findall(r"\b\d+\b", line) == [was, now]


def test_shards_of_a_corpus_are_used_as_they_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_lines(tmp_path / "mine.jsonl", [{"text": text} for text in TEXTS])
    own, shards = tmp_path / "own", tmp_path / "shards"
    train_tokenizer(TEXTS, 300, own)
    write_shards(ShardConfig((source,), own, shards, 0.1, licence="CC0-1.0"))
    work = tmp_path / "work"
    command = ["pretrain", "--shape", "one_million", "--work", str(work), "--shards", str(shards)]
    refused_command(command, capsys, field="tokenizer", reason="MISSING")

    assert main([*command, "--tokenizer", str(own), *TINY, "--set", "machine.threads=1"]) == 0

    made = verify_manifest(work / "one_million")
    assert made.data is not None
    assert made.data[SHARDS_HASH] == shards_hash(shards)
    assert made.licence == "CC0-1.0"
    assert sorted(path.name for path in work.iterdir()) == ["one_million", "runs"]
    samples = read_samples(work / "runs" / "one_million" / SAMPLES)
    assert not {sample.prompt for sample in samples} & {*PROMPTS}, "beginnings of held-out texts"


@pytest.mark.parametrize(
    ("more", "field", "reason"),
    [
        (("--set", "step=2"), "step", "UNKNOWN"),
        (("--set", "model_json=x"), "model_json", "UNKNOWN"),
        (("--set", "steps=0"), "steps", "OUT_OF_RANGE"),
        (("--tokenizer", "nowhere"), "tokenizer", "MISSING"),
        (("--shards", "shards"), "shards", "CONFLICT"),
        (("--tokenizer", "words"), "chat_template", "MISSING"),
        (("--tokenizer", "endless"), "bos_token", "UNKNOWN"),
    ],
)
def test_invalid_pretraining_is_refused_before_any_file(
    more: tuple[str, str],
    field: str,
    reason: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    write_lines(tmp_path / "mine.jsonl", [{"text": text} for text in TEXTS])
    write_tokenizer(train_tokenizer(TEXTS, 300, tmp_path / "endless"), tmp_path / "words")
    settings = json.loads((tmp_path / "endless" / "tokenizer_config.json").read_text())
    (tmp_path / "endless" / "tokenizer_config.json").write_text(
        json.dumps(settings | {"bos_token": "<|nobody|>"})
    )
    command = [
        "pretrain",
        "--shape",
        "one_million",
        "--texts",
        "mine.jsonl",
        "--work",
        "work",
        *more,
    ]
    _, line = refused_command(command, capsys, field=field, reason=reason)
    assert field in line
    assert more[1].partition("=")[0] in line, "the tokenizer, or the field"
    assert not (tmp_path / "work").exists()


def test_workers_need_an_explicit_number_of_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    groups, prefixes, tracked = list[Group](), list[str | None](), list[Tracking]()

    def run_here(
        stages: Any, storage: Path, group: Group, watcher: Any, bucket: str | None, tracking: Any
    ) -> list[Manifest]:
        groups.append(group)
        prefixes.append(bucket)
        tracked.append(tracking)
        return run_stages(stages, storage, Group(), watcher)

    monkeypatch.setattr(runner, "run_stages", run_here)
    write_lines(tmp_path / "mine.jsonl", [{"text": f"{n} {TEXTS[n % 80]}"} for n in range(400)])
    read = [
        "--shape",
        "one_million",
        "--texts",
        str(tmp_path / "mine.jsonl"),
        "--work",
        str(tmp_path / "work"),
    ]
    apart = ["--workers", "2..4", "--gpus-per-worker", "1", "--checkpoints-in-bucket"]
    refused_command(["pretrain", *read, *apart], capsys, field="workers", reason="CONFLICT")
    assert not (tmp_path / "work").exists()
    bare = [
        "--set",
        "samples.prompts=",
        "--set",
        "evaluate_every_steps=none",
        "--set",
        "machine.threads=1",
    ]
    monkeypatch.setattr(tracking_option, "PACKAGES", {"wandb": ()})
    assert main(["pretrain", *read, *apart, *TINY, *bare, "--track", "wandb"]) == 0
    assert tracked == [Tracking(("wandb",), tmp_path / "work" / "tracking")]
    assert groups == [Group(4, 1, fewest_workers=2)]
    assert prefixes == ["checkpoints/work"]
    parameters = verify_manifest(tmp_path / "work" / "one_million").report["parameters"]
    said = capsys.readouterr().out
    assert f"{parameters:,}" in said
    assert str(tmp_path / "work" / "runs" / "one_million" / "report.html") in said


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.timeout(900)  # takes seconds on an idle machine
def test_both_commands_run_from_texts_to_their_ends(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = write_lines(
        tmp_path / "mine.jsonl", [{"text": f"{n} {TEXTS[n % 80]}"} for n in range(400)]
    )
    read = ["--texts", str(mine), "--work", str(tmp_path)]
    command = ["pretrain", "--shape", "one_million", *read, "--set", "steps=1"]
    assert main(command) == 0
    report = verify_manifest(tmp_path / "one_million").report
    assert report["steps"] == 1
    assert 0 < report["bits_per_byte"] < 2 * math.log2(1024)
    assert (tmp_path / "runs" / "one_million" / "progress.jsonl").exists(), (
        "another recipe's checkpoints lie apart"
    )
    begun = [line[2:] for line in capsys.readouterr().out.splitlines() if line.startswith("> ")]
    assert begun
    known = [
        " ".join(json.loads(line)["text"].split()[:4]) for line in mine.read_text().splitlines()
    ]
    assert all(line.startswith(tuple(known)) for line in begun), (
        "it goes on with openings of one's own texts"
    )
    assert main(command) == 0, "a finished run is not run again"
    assert main(["scaling", *read, "--tokens-per-parameter", "0.001"]) == 0
    law = json.loads((tmp_path / "scaling.json").read_text())["law"]
    assert f"{law['coefficient']:.4g}" in capsys.readouterr().out
    assert (tmp_path / "scaling.html").exists()


@pytest.mark.parametrize("name", [name for name in SHAPES if name != "one_million"])
def test_the_help_shows_what_the_command_sets(name: str) -> None:
    def values(name: str, steps: int, dtype: str, licence: str) -> dict[str, str]:
        prepared = Prepared(Path(), Path(), SHAPES[name].vocabulary, licence)
        made = pretraining(SHAPES[name], prepared, steps, dtype, Path(name), "")
        return {field.name: word(field.value) for field in settable(PretrainConfig, FIXED, made)}

    one = values("one_million", 7, "float32", "")
    other = values(name, 9999, "bfloat16", texts.LICENCE)
    different = {field for field in one if one[field] != other[field]}
    assert different | {"context_tokens"} == PLANNED.keys()
    lines = dict(
        line.strip().split(" = ", 1) for line in settable_fields().splitlines() if " = " in line
    )
    assert lines.keys() == one.keys()
    for field in one.keys() - PLANNED.keys():
        assert lines[field] == one[field]
