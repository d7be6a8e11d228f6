"""Shapes of models to pre-train, their memory, and runs that share a tokenizer and token shards."""

import json
from pathlib import Path

import pytest
import torch

from tests.support.errors import refused
from tests.training.refused_commands import refused_command
from tests.training.stages.pretrain_and_die import TEXTS
from tests.training.toys import write_lines
from training.__main__ import main
from training.artifacts.manifest import MANIFEST, verify_manifest
from training.errors import ConfigError
from training.model.config import parse_config
from training.model.transformer import Decoder
from training.planning.memory import MemoryKind
from training.recipes.custom.assignments import assigned
from training.recipes.pretraining import memory, shapes
from training.recipes.pretraining.memory import check_memory, planned_peak
from training.recipes.pretraining.recipe import SIZES, pretraining
from training.recipes.pretraining.shapes import GIB, SHAPES, Shape, listed_shapes
from training.recipes.pretraining.texts import Prepared
from training.stages.pretrain_config import PretrainConfig

PUBLISHED = {  # numbers of parameters of the released weights
    "gpt2-small": 124_439_808,
    "gpt2-medium": 354_823_168,
    "gpt2-large": 774_030_080,
    "gpt2-xl": 1_557_611_200,
    "smollm-135m": 134_515_008,
    "smollm-360m": 361_821_120,
    "tinyllama-1.1b": 1_100_048_384,
    "llama-3.2-1b": 1_235_814_400,
    "llama-3.1-8b": 8_030_261_248,
}
STEP = ("--set", "steps=1", "--set", "batch_rows=2", "--set", "evaluate_every_steps=none")
NO_SAMPLES = ("--set", "samples.openings=0", "--set", "machine.threads=1")


def counted(shape: Shape) -> int:
    with torch.device("meta"):
        decoder = Decoder(parse_config(shape.model_json(shape.vocabulary)))
    return sum(parameter.numel() for parameter in decoder.parameters())


def words(*counts: int) -> list[str]:
    return [f"{count:,}" for count in counts]


def config_of(shape: Shape, *assignments: str) -> PretrainConfig:
    prepared = Prepared(Path("t"), Path("s"), shape.vocabulary, "")
    made = pretraining(shape, prepared, 10, "float32", Path("o"), "")
    return assigned(made, assignments)


@pytest.mark.parametrize("shape", [*SHAPES.values(), *SIZES], ids=lambda shape: shape.name)
def test_the_listed_parameters_are_those_of_the_model(shape: Shape) -> None:
    assert shape.parameters() == counted(shape)
    assert PUBLISHED.get(shape.name, counted(shape)) == counted(shape)


def test_the_help_lists_each_shape_with_its_parameters(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["pretrain", "--help"])
    said = capsys.readouterr().out
    assert listed_shapes() in said
    for name, shape in SHAPES.items():
        (line,) = [line for line in said.splitlines() if line.split()[:1] == [name]]
        sizes = (shape.layers, shape.width, shape.heads, shape.key_heads, shape.feed_forward)
        counts = (counted(shape), *sizes, shape.positions, shape.vocabulary)
        assert line.split() == [name, *words(counts[0]), shape.family, *words(*counts[1:])]


def test_rates_are_the_measured_ones_and_fall_with_the_width() -> None:
    assert {size.width: size.learning_rate for size in SIZES} == {64: 5e-3, 112: 4e-3, 176: 3e-3}
    assert SHAPES["ten_million"].learning_rate == 2e-3
    rates = [
        Shape("s", width, 1, 1, 1).learning_rate for width in (16, 64, 90, 112, 200, 320, 640, 4096)
    ]
    assert rates == sorted(rates, reverse=True)
    assert rates[-2] == rates[-3] / 2


@pytest.mark.parametrize(
    ("more", "field", "reason", "limit", "said"),
    [
        (("--shape", "gpt2-smal"), "shape", "UNKNOWN", ", ".join(SHAPES), "gpt2-small?"),
        (("--shape", "GPT-2"), "shape", "UNKNOWN", ", ".join(SHAPES), "gpt2-small?"),
        (("--shape", "llama"), "shape", "UNKNOWN", ", ".join(SHAPES), "llama-3.2-1b?"),
        (("--shape", "llama-3.1"), "shape", "UNKNOWN", ", ".join(SHAPES), "llama-3.1-8b?"),
        (("--heads", "5"), "heads", "MISMATCH", "divides 56", "4 or 7"),
        (("--width", "113"), "heads", "MISMATCH", None, "113"),
        (("--shape", "gpt2-small", "--heads", "7"), "heads", "MISMATCH", "divides 768", "6 or 8"),
        (("--kv-heads", "3"), "kv-heads", "MISMATCH", "divides 4", "2 or 4"),
        (("--shape", "gpt2-xl", "--kv-heads", "5"), "kv-heads", "UNSUPPORTED", "25", ""),
        (("--layers", "0"), "layers", "OUT_OF_RANGE", "at least 1", "0"),
        (("--positions", "1"), "positions", "OUT_OF_RANGE", "at least 2", "1"),
        (("--vocabulary", "261"), "vocabulary", "OUT_OF_RANGE", "at least 262", "261"),
        (("--layers", "100000", "--width", "65536"), "shape", "TOO_LARGE", None, "GiB"),
        (("--vocabulary", "300", "--tokenizer", "own"), "vocabulary", "CONFLICT", "", ""),
        (("--name", "a/b"), "name", "MALFORMED", None, "a/b"),
        (("--name", "runs"), "name", "IN_USE", "", "runs"),
    ],
)
def test_sizes_that_do_not_fit_are_refused_before_texts_are_read(
    more: tuple[str, ...],
    field: str,
    reason: str,
    limit: str | None,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(shapes, "DEVICE_FILES", ())
    command = ["pretrain", "--texts", "nowhere.txt", "--work", str(tmp_path / "work"), *more]
    _, line = refused_command(command, capsys, field=field, reason=reason, limit=limit)
    assert said in line
    assert not (tmp_path / "work").exists()


def test_the_earlier_option_is_refused_with_its_new_name(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        main(["pretrain", "--recipe", "one_million", "--work", "work"])
    last = capsys.readouterr().err.splitlines()[-1]
    assert {"--recipe", "--shape"} <= set(last.split())


def test_a_step_that_exceeds_the_memory_is_refused_with_what_fits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = config_of(SHAPES["gpt2-small"], "machine.device=cpu")
    needed = planned_peak(config)
    state = sum(
        part.bytes
        for part in needed.parts
        if part.name in (MemoryKind.WEIGHTS, MemoryKind.GRADIENTS, MemoryKind.OPTIMIZER)
    )
    assert needed.bytes > state > 12 * SHAPES["gpt2-small"].parameters()

    def check(available: float) -> str:
        monkeypatch.setattr(memory, "available_bytes", lambda: available)
        with refused(ConfigError, field="shape", reason="TOO_LARGE") as caught:
            check_memory(config)
        assert caught.value.limit == f"{available / GIB:.1f} GiB"
        return str(caught.value)

    monkeypatch.setattr(memory, "available_bytes", lambda: needed.bytes)
    check_memory(config)
    said = check(needed.bytes - 1)
    assert needed.largest.name in said
    assert said.endswith("--set microbatch_rows=4")
    one_row = planned_peak(config_of(SHAPES["gpt2-small"], "microbatch_rows=1")).bytes
    assert check(one_row - 1).endswith("--set checkpoint_activations=true")
    assert "--set" not in check(state)


def test_the_early_bound_is_below_the_plan() -> None:
    for shape in SHAPES.values():
        least = shape.parameters() * shapes.MIN_WEIGHT_BYTES
        sgd = ("optimizer.algorithm=sgd", "optimizer.momentum=0")
        assert least <= planned_peak(config_of(shape, *sgd)).bytes


def test_runs_of_the_same_texts_share_tokenizer_and_shards(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"text": f"{n} {TEXTS[n % 80]}"} for n in range(10)]
    mine = write_lines(tmp_path / "mine.jsonl", rows[:9])
    work = tmp_path / "work"
    command = ["pretrain", "--texts", str(mine), "--work", str(work), *STEP, *NO_SAMPLES]
    small = ("--layers", "1", "--width", "32", "--positions", "64", "--vocabulary", "300")

    def folders() -> dict[str, int]:
        return {
            path.name: (path / MANIFEST).stat().st_mtime_ns
            for path in work.iterdir()
            if path.name.startswith(("tokenizer-", "shards-"))
        }

    assert main([*command, *small]) == 0
    made = folders()
    assert sorted(name.rpartition("-")[0] for name in made) == ["shards-300", "tokenizer-300"]
    assert "made before" not in capsys.readouterr().out
    assert main([*command, *small, "--name", "deep", "--layers", "2", "--kv-heads", "2"]) == 0
    assert folders() == made, "nothing is written again"
    assert "made before" in capsys.readouterr().out
    first, deep = (verify_manifest(work / name) for name in ("one_million", "deep"))
    assert first.config["model_json"]["num_hidden_layers"] == 1
    assert first.config["context_tokens"] == 64
    kept = json.loads((work / "deep" / "config.json").read_text())
    assert (kept["num_hidden_layers"], kept["num_key_value_heads"]) == (2, 2)
    assert (work / "runs" / "deep").is_dir()

    assert main([*command, *small, "--name", "words", "--vocabulary", "280"]) == 0
    assert len(folders()) == 4
    write_lines(mine, rows)
    other = [*command, *small, "--name", "other"]
    assert main(other) == 0
    assert len(folders()) == 6
    assert made.items() <= folders().items()
    capsys.readouterr()
    refused_command([*command, *small], capsys, field="texts", reason="CHANGED")
    assert deep.report["steps"] == 1
