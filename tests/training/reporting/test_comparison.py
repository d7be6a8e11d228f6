"""Comparison of runs, from their directories and from the command line."""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.errors import refused
from tests.training.toys import sft_rows, toy_model, write_lines
from training.__main__ import main
from training.cluster.runner import StageRun, run_stage
from training.model.lora import LoraConfig
from training.optim.optimizers import OptimizerConfig
from training.reporting.comparison import (
    ComparisonError,
    Row,
    best_places,
    compare,
    flat,
    last_figures,
    ranked,
    table,
    text_of,
)
from training.reporting.stage import read_stage
from training.runtime.context import Lineage, Machine
from training.stages import sft
from training.stages.sft import SftConfig

Run = Callable[..., Path]


def runner(root: Path) -> Run:
    """Return a function that trains a toy run under `root` and returns the run's folder."""
    toy_model(root / "first")
    write_lines(root / "sft.jsonl", sft_rows(40))
    write_lines(root / "more.jsonl", sft_rows(48))

    def learn(name: str, stage: str = "sft", **changes: object) -> Path:
        config = SftConfig(
            model_directory=root / "first",
            data_path=root / "sft.jsonl",
            output_directory=root / name,
            lineage=Lineage(name),
            batch_rows=8,
            machine=Machine(threads=1),
        )
        run_stage(StageRun(stage, sft.run, replace(config, **changes)), root / "runs" / name)
        return root / "runs" / name

    return learn


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return runner(tmp_path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with three runs that differ in their epochs."""
    root = tmp_path_factory.mktemp("compared")
    learn = runner(root)
    for epochs in (1, 6, 3):
        learn(f"for-{epochs}", epochs=epochs)
    return root / "runs"


def values(rows: Sequence[Row]) -> dict[str, tuple[str, ...]]:
    return {row.name: row.values for row in rows}


def test_only_different_settings_and_figures_are_listed(run: Run, tmp_path: Path) -> None:
    optimizer = OptimizerConfig(learning_rate=0.5)
    (compared,) = compare(
        [run("a"), run("b", optimizer=optimizer, data_path=tmp_path / "more.jsonl")]
    )
    rows = values(compared.differences)
    assert rows.keys() == {"data_path", "optimizer.learning_rate", "data: data_path"}
    assert rows["optimizer.learning_rate"][compared.labels.index("b")] == "0.5"
    names = [row.name for row in compared.figures]
    assert names[:2] == ["held_out_loss", "loss"]
    assert all(row.differs for row in compared.figures)
    # The files have different numbers of rows. Times and speeds may be shown as equal.
    assert "steps" in values(compared.costs)
    assert all(row.differs for row in compared.costs)
    assert {line.name for line in compared.curves.first[0].lines} == {"a", "b"}
    # The held-out rows of the two files are not the same.
    assert "data_path" in compared.caution


def test_runs_of_a_folder_are_sorted_by_the_held_out_figure(folder: Path) -> None:
    (compared,) = compare([folder])
    assert compared.labels == ("for-6", "for-3", "for-1")
    assert (compared.sorted_by, compared.caution) == ("held_out_loss", "")
    held_out = compared.figures[0]
    assert held_out.best == {0}
    assert sorted(held_out.values, key=float) == list(held_out.values)
    assert values(compared.differences) == {"epochs": ("6", "3", "1")}
    (by_rate,) = compare([folder], "gradient_norm")
    norms = next(row for row in by_rate.figures if row.name == "gradient_norm")
    assert sorted(norms.values, key=float) == list(norms.values)
    with refused(ComparisonError, field="sort", reason="UNKNOWN"):
        compare([folder], "beauty")


@pytest.mark.parametrize(
    ("name", "measured", "best"),
    [
        ("held_out_loss", [2.0, 1.0, None, math.nan], {1}),
        ("held_out_accuracy", [0.5, 0.7, 0.7], {1, 2}),
        ("loss", [1.0, 1.0], set()),
        ("gradient_norm", [1.0, 2.0], set()),
    ],
)
def test_best_value_follows_the_direction_of_the_figure(
    name: str, measured: list[float | None], best: set[int]
) -> None:
    assert best_places(name, measured) == best


def test_missing_values_rank_last() -> None:
    assert ranked("held_out_accuracy", [0.5, None, 0.9]) == [2, 0, 1]
    assert ranked("held_out_loss", [math.nan, 0.9, 0.5]) == [2, 1, 0]


def test_exported_state_of_an_early_stop_is_compared(folder: Path) -> None:
    read = read_stage(folder / "for-1" / "sft")
    assert read is not None
    assert read.output is not None
    worse = replace(read.steps[-1], metrics={**read.steps[-1].metrics, "held_out_loss": 99.0})
    stopped = replace(read, steps=[*read.steps, worse])
    assert last_figures(stopped)["held_out_loss"] == read.output.report["held_out_loss"]


def test_stages_of_different_kinds_are_marked_and_null_is_none(run: Run) -> None:
    (compared,) = compare([run("a"), run("b", vocabulary_rows=200, lora=LoraConfig(rank=2))])
    rows = values(compared.differences)["vocabulary_rows"]
    assert rows[compared.labels.index("a")] == "none"
    first, second = compared.reads
    unlike = replace(second, steps=[replace(step, stage="grpo") for step in second.steps])
    text = text_of([replace(compared, reads=(first, unlike))], 120)
    assert text.startswith("different stages, sft | grpo: 2 runs")
    assert text_of([compared], 120).startswith("sft: 2 runs, the best held out loss first")


def test_equal_runs_have_no_differences(run: Run) -> None:
    (compared,) = compare([run("a"), run("b")])
    assert compared.differences == []
    assert [row.name for row in compared.figures] == ["held_out_loss"]
    assert not compared.figures[0].best
    assert "settings that differ: none" in text_of([compared], 120)


def test_equal_versions_are_named_by_their_folders(run: Run, tmp_path: Path) -> None:
    first, second = (run(f"{where}/same") for where in ("one", "two"))
    (compared,) = compare([first, second])
    assert set(compared.labels) == {"one/same", "two/same"}
    (twice,) = compare([first, first])
    assert twice.labels == ("same (1)", "same (2)")


def test_wide_tables_continue_below_and_long_values_lose_their_beginning() -> None:
    rows = [Row(f"field{place}", ("x" * 40 + "end", "short")) for place in range(3)]
    lines = list(table(("first", "second"), rows, columns=80))
    assert max(map(len, lines)) <= 80
    assert [line.split()[0] for line in lines] == [
        "field0",
        "first",
        "second",
        "field2",
        "first",
        "second",
    ]
    assert "…" in lines[1]
    assert "xend" in lines[1]


def test_single_stages_are_paired_with_any_names(run: Run) -> None:
    assert len(compare([run("a", "sft"), run("b", "tuning")])) == 1


def test_stages_are_paired_by_name(run: Run, tmp_path: Path) -> None:
    for stage in ("sft", "again"):
        run(f"whole/{stage}", stage)
    compared = compare([tmp_path / "runs" / "whole", run("b", "again")])
    assert [one.name for one in compared] == ["again"]
    other = run("c", "other")
    with refused(
        ComparisonError, field=str(other), reason="MISMATCH", limit="sft, again"
    ) as caught:
        compare([tmp_path / "runs" / "whole", other])
    assert "other" in str(caught.value)


def test_directory_without_stages_is_rejected_by_name(run: Run, tmp_path: Path) -> None:
    with refused(ComparisonError, field=str(tmp_path / "first"), reason="EMPTY"):
        compare([tmp_path / "first", run("a")])
    with refused(ComparisonError, field=str(tmp_path / "runs" / "a"), reason="TOO_SMALL"):
        compare([tmp_path / "runs" / "a"])


def test_command_prints_a_comparison_and_writes_a_page(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "compared.html"
    asked = ["compare", str(folder), "--state", str(tmp_path), "--page", str(page)]
    assert main(asked) == 0
    said = capsys.readouterr().out
    assert re.search(r"\n +held_out_loss  epochs  .*\n  for-6  \S+ \*  +6 ", said)
    text = page.read_text()
    assert "<h1>for-6, for-3, for-1</h1>" in text
    assert text.count("<polyline") >= 3 * 4
    assert 'title="best"' in text
    assert "<script" not in text
    assert not re.search(r"https?://|src=|@import|url\(", text)


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
