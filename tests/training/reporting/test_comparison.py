"""Comparison of two runs, from their directories and from the command line."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.errors import refused
from tests.training.toys import sft_rows, toy_model, write_lines
from training.__main__ import main
from training.cluster.runner import StageRun, run_stage
from training.model.lora import LoraConfig
from training.optim.optimizers import OptimizerConfig
from training.reporting.comparison import ComparisonError, compare, flat, text_of
from training.runtime.context import Lineage, Machine
from training.stages import sft
from training.stages.sft import SftConfig

Run = Callable[..., Path]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    toy_model(tmp_path / "first")
    write_lines(tmp_path / "sft.jsonl", sft_rows(40))
    write_lines(tmp_path / "more.jsonl", sft_rows(48))

    def learn(name: str, stage: str = "sft", **changes: object) -> Path:
        config = SftConfig(
            model_directory=tmp_path / "first",
            data_path=tmp_path / "sft.jsonl",
            output_directory=tmp_path / name,
            lineage=Lineage(name),
            batch_rows=8,
            machine=Machine(threads=1),
        )
        run_stage(StageRun(stage, sft.run, replace(config, **changes)), tmp_path / "runs" / name)
        return tmp_path / "runs" / name

    return learn


def test_only_different_settings_are_listed(run: Run, tmp_path: Path) -> None:
    optimizer = OptimizerConfig(learning_rate=0.5)
    (pair,) = compare(run("a"), run("b", optimizer=optimizer, data_path=tmp_path / "more.jsonl"))
    rows = {row.name: (row.first, row.second) for row in pair.differences}
    assert rows.keys() == {"data_path", "optimizer.learning_rate", "data: data_path"}
    assert rows["optimizer.learning_rate"][1] == "0.5"
    figures = {row.name: row for row in pair.figures}
    assert next(iter(figures)) == "loss"
    assert figures["loss"].first != figures["loss"].second
    assert {row.name for row in pair.costs} >= {"steps", "time", "tokens per second"}
    assert [line.name for line in pair.curves.first[0].lines] == ["a", "b"]


def test_stages_of_different_kinds_are_marked_and_null_is_none(run: Run) -> None:
    (pair,) = compare(run("a"), run("b", vocabulary_rows=200, lora=LoraConfig(rank=2)))
    assert next(row for row in pair.differences if row.name == "vocabulary_rows").first == "none"
    unlike = replace(
        pair,
        second=replace(
            pair.second, steps=[replace(step, stage="grpo") for step in pair.second.steps]
        ),
    )
    assert text_of([unlike]).startswith("different stages, sft | grpo: a (")
    assert text_of([pair]).startswith("sft: a (")


def test_equal_runs_have_no_differences(run: Run) -> None:
    (pair,) = compare(run("a"), run("b"))
    assert pair.differences == []
    assert all(row.first == row.second for row in pair.figures)
    assert "settings that differ: none" in text_of([pair])


def test_single_stages_are_paired_with_any_names(run: Run) -> None:
    assert len(compare(run("a", "sft"), run("b", "tuning"))) == 1


def test_stages_are_paired_by_name(run: Run, tmp_path: Path) -> None:
    for stage in ("sft", "again"):
        run(f"whole/{stage}", stage)
    pairs = compare(tmp_path / "runs" / "whole", run("b", "again"))
    assert [pair.name for pair in pairs] == ["again"]
    other = run("c", "other")
    with refused(
        ComparisonError, field=str(other), reason="MISMATCH", limit="sft, again"
    ) as caught:
        compare(tmp_path / "runs" / "whole", other)
    assert "other" in str(caught.value)


def test_directory_without_stages_is_rejected_by_name(run: Run, tmp_path: Path) -> None:
    with refused(ComparisonError, field=str(tmp_path / "first"), reason="EMPTY"):
        compare(tmp_path / "first", run("a"))


def test_command_prints_a_comparison_and_writes_a_page(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = run("a"), run("b", epochs=2)
    page = tmp_path / "compared.html"
    asked = ["compare", str(first), str(second), "--state", str(tmp_path), "--page", str(page)]
    assert main(asked) == 0
    said = capsys.readouterr().out
    assert "epochs  1                     2" in said
    text = page.read_text()
    assert "<h1>a and b</h1>" in text
    assert text.count("<polyline") >= 4
    assert "<script" not in text


def test_unknown_run_is_rejected_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for asked in (["compare", "nano-7", "nano-8"], ["report", "nano-7"]):
        assert main([*asked, "--state", str(tmp_path)]) == 1
        error = capsys.readouterr().err
        assert "nano-7" in error
        assert str(tmp_path) in error
    (tmp_path / "empty").mkdir()
    assert main(["report", str(tmp_path / "empty"), "--state", "nowhere"]) == 1
    error = capsys.readouterr().err
    assert str(tmp_path / "empty") in error
    assert "nowhere" not in error  # the run that exists is not named


def test_page_of_a_stage_is_rebuilt_with_a_price(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = run("a")
    (directory / "sft" / "report.html").unlink()
    assert (
        main(["report", str(directory), "--state", str(tmp_path), "--dollars-per-worker-hour", "4"])
        == 0
    )
    assert str(directory / "sft" / "report.html") in capsys.readouterr().out
    assert "$4 per worker" in (directory / "sft" / "report.html").read_text()


def test_config_fields_have_full_names_without_run_fields() -> None:
    config = {"a": 1, "b": {"c": {"d": 2}}, "output_directory": "x", "lineage": {"version": "v"}}
    assert flat(config) == {"a": 1, "b.c.d": 2}
