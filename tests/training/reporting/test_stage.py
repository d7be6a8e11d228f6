"""Page of a stage, built from the files of a run."""

import html
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.support.errors import refused
from tests.training.toys import sft_rows, toy_model, write_lines
from training.artifacts.manifest import Manifest, hash_file
from training.cluster.runner import StageRun, run_stage
from training.data.formats.fields import ExampleError
from training.errors import ConfigError
from training.evaluation.health import HealthConfig
from training.progress_log import (
    PROGRESS,
    SAMPLES,
    Effort,
    Line,
    ProgressLog,
    SampleLog,
    read_lines,
)
from training.recipes.nano import nano
from training.recipes.recipe import Plan
from training.reporting.stage import (
    MOST_SAMPLED_STEPS,
    PRICE_VARIABLE,
    cost_of,
    cost_rows,
    price_here,
    read_stage,
    read_stages,
    report_rows,
    write_stage_page,
)
from training.runtime.context import Lineage, Machine, Progress, RunContext, Sample, StoppedError
from training.stage_record import UNHASHED, read_record, record_start
from training.stages import sft
from training.stages.sft import SftConfig


@pytest.fixture
def config(tmp_path: Path) -> SftConfig:
    toy_model(tmp_path / "first")
    write_lines(tmp_path / "sft.jsonl", sft_rows(40))
    return SftConfig(
        model_directory=tmp_path / "first",
        data_path=tmp_path / "sft.jsonl",
        output_directory=tmp_path / "tuned",
        lineage=Lineage("tuned", code_commit="c0ffee"),
        batch_rows=8,
        checkpoint_every_steps=2,
        machine=Machine(threads=1),
    )


def line(step: int, elapsed: float, workers: int = 1, tokens: float | None = None) -> Line:
    metrics = {} if tokens is None else {"tokens": tokens}
    return Line(
        Progress("sft", step, 9, metrics), Effort(elapsed, elapsed / 2, 100.0 * elapsed, workers)
    )


def test_page_of_a_finished_stage_has_curves_data_and_cost(
    config: SftConfig, tmp_path: Path
) -> None:
    run_stage(StageRun("run", sft.run, config), tmp_path / "runs")
    page = (tmp_path / "runs" / "run" / "report.html").read_text()
    assert ">finished<" in page
    sha256 = hash_file(config.data_path)
    assert sha256[:12] in page
    assert sha256 not in page, "the full hashes are in stage.json and manifest.json"
    assert "<title>sft: tuned</title>" in page
    assert "held out loss" in page
    read = read_stage(tmp_path / "runs" / "run")
    assert read is not None
    assert read.output is not None
    assert read.course[0].metrics == {"held_out_loss": read.output.report["held_out_loss_before"]}
    assert [step.step for step in read.course] == [0, *(step.step for step in read.steps)]
    assert "Samples over time" in page
    assert "tokens per second" in page
    assert "c0ffee" in page
    assert "<script" not in page


def test_page_of_a_failed_stage_shows_its_last_step(config: SftConfig, tmp_path: Path) -> None:
    def fails(config: SftConfig, context: RunContext) -> Manifest:
        def progress(step: Progress) -> None:
            context.progress(step)
            if step.step == 3:
                raise OSError("the disk is full")

        return sft.run(config, replace(context, progress=progress))

    with pytest.raises(OSError):
        run_stage(StageRun("run", fails, config), tmp_path / "runs")
    assert (
        "failed after step 3: OSError: the disk is full"
        in (tmp_path / "runs" / "run" / "report.html").read_text()
    )

    run_stage(StageRun("run", sft.run, config), tmp_path / "runs")
    read = read_stage(tmp_path / "runs" / "run")
    assert read is not None
    assert (read.state_text, len(read.record.starts), read.cost.repeated_steps) == (
        "finished",
        2,
        1,
    )
    assert "resumed 1 times" in (tmp_path / "runs" / "run" / "report.html").read_text()


def test_page_in_a_folder_of_an_earlier_start_shows_why_the_stage_failed(
    config: SftConfig, tmp_path: Path
) -> None:
    config.data_path.write_text("{}\n")
    (tmp_path / "runs" / "run").mkdir(parents=True)
    with pytest.raises(ExampleError) as refused:
        run_stage(StageRun("run", sft.run, config), tmp_path / "runs")
    page = tmp_path / "runs" / "run" / "report.html"
    assert f"failed: {refused.value}" in html.unescape(page.read_text())
    assert "no step yet" not in page.read_text()


def test_stopped_stage_has_not_failed(config: SftConfig, tmp_path: Path) -> None:
    def stopped(config: SftConfig, context: RunContext) -> Manifest:
        raise StoppedError("sft: stopped after step 1, which is kept")

    with pytest.raises(StoppedError):
        run_stage(StageRun("run", stopped, config), tmp_path / "runs")
    assert "no step yet" in (tmp_path / "runs" / "run" / "report.html").read_text()


def test_missing_figures_show_how_to_get_them() -> None:
    words = report_rows(
        {
            "stopped_because": "",
            "label_noise": None,
            "label_noise_ceiling": None,
            "kl": -0.0115,
            "steps": 3,
            "other": None,
        }
    )
    assert "--set label_noise=0.1" in words["label noise"]
    assert "--set label_noise=0.1" in words["label noise ceiling"]
    assert words["kl"].startswith("-0.0115 (")
    assert "estimate" in words["kl"]
    assert (words["steps"], words["other"]) == ("3", "unknown")
    assert "stopped because" not in words
    assert report_rows({"label_noise_ceiling": 0.9}) == {"label noise ceiling": "0.9"}


def test_unwritable_page_is_logged_and_does_not_fail_the_run(
    config: SftConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv(PRICE_VARIABLE, "a pound of flesh")
    manifest = run_stage(StageRun("run", sft.run, config), tmp_path / "runs")
    assert manifest.version == "tuned"
    assert PRICE_VARIABLE in caplog.text
    assert not (tmp_path / "runs" / "run" / "report.html").exists()


def test_warnings_and_sizes_in_memory_are_on_the_page(config: SftConfig, tmp_path: Path) -> None:
    record_start("grpo", config, tmp_path, 1)
    log = ProgressLog(tmp_path / PROGRESS)
    for update, share in enumerate((0.5, 1.0, 1.0), start=1):
        metrics = {"score": 0.0, "zero_variance_groups": share, "memory_bytes": 1.5 * 2**30}
        log.append(Progress("grpo", update, 9, metrics))
    page = write_stage_page(tmp_path)
    assert page is not None
    text = page.read_text()
    assert "Warning: no learning signal in 2 of 3 updates" in text
    assert "1.5 GiB" in text
    assert f"{1.5 * 2**30:.4g}" not in text


def test_cost_includes_every_start() -> None:
    cost = cost_of([line(1, 10, 2, 5), line(2, 20, 2, 5), line(2, 4, 3, 5), line(3, 9, 3, 5)])
    assert (cost.seconds, cost.worker_seconds, cost.processor_seconds) == (29, 2 * 20 + 3 * 9, 14.5)
    assert (cost.memory_bytes, cost.tokens, cost.repeated_steps) == (2000, 20, 1)
    assert cost.tokens_per_second == pytest.approx(20 / 29)
    assert cost.dollars(3.6) == pytest.approx(67 * 0.001)


def test_unknown_cost_is_omitted() -> None:
    nothing = cost_of([])
    assert (nothing.seconds, nothing.tokens, nothing.tokens_per_second, nothing.dollars(None)) == (
        0,
        None,
        None,
        None,
    )


def test_lines_of_earlier_versions_without_effort_are_read(tmp_path: Path) -> None:
    (tmp_path / PROGRESS).write_text(
        '{"stage": "sft", "step": 1, "total_steps": 2, "metrics": {"loss": 1.5}}\n'
    )
    assert read_lines(tmp_path / PROGRESS) == [Line(Progress("sft", 1, 2, {"loss": 1.5}), Effort())]


@pytest.mark.parametrize("text", ["nan", "-1", "much", "inf"])
def test_invalid_price_is_rejected_by_variable_name(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PRICE_VARIABLE, text)
    with refused(
        ConfigError, field=PRICE_VARIABLE, reason="OUT_OF_RANGE", limit="at least 0 and finite"
    ):
        price_here()


def test_price_adds_a_cost(
    config: SftConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PRICE_VARIABLE, "2.5")
    run_stage(StageRun("run", sft.run, config), tmp_path / "runs")
    assert "at $2.5 per worker" in (tmp_path / "runs" / "run" / "report.html").read_text()
    read = read_stage(tmp_path / "runs" / "run")
    assert read is not None
    assert "cost" not in cost_rows(read, None)


@dataclass(frozen=True)
class Inner:
    """Nested part of a config."""

    extra_path: Path


@dataclass(frozen=True)
class Outer:
    """Config with a nested part."""

    data_path: Path
    bare_directory: Path
    none_path: Path
    output_directory: Path
    inner: Inner
    lineage: Lineage


def test_inputs_are_hashed_by_field_and_outputs_are_not(tmp_path: Path) -> None:
    for name in ("data", "extra"):
        (tmp_path / name).write_text(name)
    for name in ("bare", "out"):
        (tmp_path / name).mkdir()
    inner = Inner(tmp_path / "extra")
    config = Outer(
        tmp_path / "data",
        tmp_path / "bare",
        tmp_path / "none",
        tmp_path / "out",
        inner,
        Lineage("v", code_commit="c"),
    )
    record_start("stage", config, tmp_path, workers=2)
    record_start(
        "stage", replace(config, lineage=Lineage("v", code_commit="d")), tmp_path, workers=3
    )
    record = read_record(tmp_path)
    assert record is not None
    assert record.data == {
        "data_path": hash_file(tmp_path / "data"),
        "bare_directory": UNHASHED,
        "inner.extra_path": hash_file(tmp_path / "extra"),
    }
    assert [start.workers for start in record.starts] == [2, 3]
    assert record.starts[0].config_sha256 != record.starts[1].config_sha256
    assert (record.code_commit, record.output_directory) == ("d", tmp_path / "out")
    page = write_stage_page(tmp_path)
    assert page is not None
    assert "another config" in page.read_text()


def test_directory_without_a_stage_has_no_page(tmp_path: Path) -> None:
    assert write_stage_page(tmp_path) is None
    assert read_stages(tmp_path) == []


def test_samples_are_grouped_by_prompt_and_escaped(config: SftConfig, tmp_path: Path) -> None:
    log = SampleLog(tmp_path / SAMPLES)
    for step in range(1, 41):
        for prompt in ("Zebra", "An"):
            log.append(Sample("sft", step, prompt, f"<b>{prompt} {step}</b>"))
    record_start("stage", config, tmp_path, workers=1)
    page = write_stage_page(tmp_path)
    assert page is not None
    text = page.read_text()
    assert text.index("Zebra") < text.index("<h3>An</h3>")  # in the order of the config
    assert "&lt;b&gt;An 1&lt;/b&gt;" in text
    assert "&lt;b&gt;An 40&lt;/b&gt;" in text
    assert text.count("&lt;b&gt;An ") == MOST_SAMPLED_STEPS
    assert "<b>" not in text


def test_output_directory_of_a_nested_config_is_recorded(tmp_path: Path) -> None:
    """Cover the health stage; without its record the page of every run failed."""
    recipe = nano(Plan("nano-1", tmp_path, tmp_path / "nano-0"))
    config = HealthConfig(recipe.evaluation, recipe.gate, label_noise=0.1, ceiling=0.9)
    (tmp_path / "health").mkdir()
    record_start("health", config, tmp_path / "health", workers=1)
    (read,) = read_stages(tmp_path)
    assert read.record.output_directory == recipe.evaluation.health_directory
