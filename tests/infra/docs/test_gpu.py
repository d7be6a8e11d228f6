"""The table of figures that GPUs gave, made from the record of runs."""

from dataclasses import replace
from pathlib import Path

from infra.docs import gpu
from infra.docs.gpu import Counts, Figures, GpuRun, add, read, section

RUN = GpuRun(
    card="NVIDIA H100 80GB HBM3",
    driver="580.65.06",
    torch="2.15.0",
    commit="abc1234",
    clean=True,
    date="2026-12-01",
    model="qwen3-0.6b",
    tests={"stages": Counts(105, 1, 0)},
    figures=(
        Figures("sft", "bfloat16", 55_709.4, 0.1923, 19.08),
        Figures("vLLM, small-0, 8 streams", "bfloat16", 1234.5),
    ),
)


def test_without_a_record_nothing_is_measured(tmp_path: Path) -> None:
    text = section(read(tmp_path / "gpu.jsonl"))
    assert "not measured" in text
    assert "|" not in text


def test_a_run_is_shown_with_card_versions_and_results(tmp_path: Path) -> None:
    add(RUN, tmp_path / "gpu.jsonl")
    (found,) = read(tmp_path / "gpu.jsonl")
    assert found == RUN
    text = section([found])
    assert "not measured" not in text
    for part in (RUN.card, RUN.driver, RUN.torch, RUN.commit, RUN.date, RUN.model, "1 failed"):
        assert part in text
    assert "| sft | bfloat16 | 55,709 | 19.2% | 19.1 |" in text
    assert "| vLLM, small-0, 8 streams | bfloat16 | 1,234 |  |  |" in text
    assert "uncommitted" not in text
    assert "uncommitted" in section([replace(RUN, clean=False)])


def test_the_last_run_of_each_card_is_shown(tmp_path: Path) -> None:
    record = tmp_path / "gpu.jsonl"
    newer, other = replace(RUN, commit="def5678"), replace(RUN, card="NVIDIA L4")
    for run in (RUN, other, newer):
        add(run, record)
    assert read(record) == [newer, other]


def test_the_page_has_the_generated_part_once() -> None:
    page = gpu.PAGE.read_text()
    assert gpu.SECTION.findall(page) == [section(read(gpu.RECORD))]
