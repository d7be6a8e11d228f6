"""KTO from files to files: weights, the baseline z0, bitwise resumption and refusals."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.support.errors import refused
from tests.training.rl.served_toy import served_rows, sharp_model
from tests.training.rl.toy import STOP
from tests.training.rl.toy_preferences import Half, gradients, toy_kto, toy_models, toy_thumbs
from tests.training.stages.killed import check_same_bits_after_a_kill
from tests.training.stages.rows import thumb_rows
from tests.training.toys import KillAfter, Killed, ProgressList, toy_model, user, write_lines
from training.artifacts.manifest import verify_manifest
from training.data.chat import load_chat
from training.data.formats.fields import ExampleError
from training.data.tensors import TokenisedExample, response_batch
from training.errors import ConfigError
from training.model.lora import LoraConfig
from training.optim.optimizers import OptimizerConfig
from training.rl.reference import WatchConfig
from training.rl.served import OffPolicyConfig, OffPolicyError
from training.runtime.context import Lineage, Machine, RunContext
from training.runtime.ranks import ALONE
from training.runtime.training_state import DirectoryCheckpoints
from training.stages import kto
from training.stages.kto import KtoConfig, Thumb, Thumbs

LORA = LoraConfig(rank=4)


@pytest.fixture
def config(tmp_path: Path) -> KtoConfig:
    return KtoConfig(
        model_directory=toy_model(tmp_path / "first"),
        data_path=write_lines(tmp_path / "thumbs.jsonl", thumb_rows(80, 160)),
        output_directory=tmp_path / "second",
        lineage=Lineage("second"),
        batch_rows=24,
        microbatch_rows=12,
        optimizer=OptimizerConfig(learning_rate=1e-2),
        watch=WatchConfig(prompts=4, max_response_tokens=8, length_floor_fraction=0.0),
        checkpoint_every_steps=5,
        machine=Machine(threads=1),
    )


@pytest.fixture
def apart() -> Any:
    """Return a policy that differs from its reference."""
    models = toy_models()
    with torch.no_grad():
        for parameter in models.policy.decoder.parameters():
            parameter.mul_(3.0)
    return models


def run(config: KtoConfig, runs: Path, progress: ProgressList | None = None) -> dict[str, Any]:
    kto.run(config, RunContext(DirectoryCheckpoints(runs), progress or ProgressList()))
    return dict(verify_manifest(config.output_directory).report)


def no_autocast() -> torch.autocast:
    return torch.autocast("cpu", enabled=False)


def test_training_learns_likes_and_reports_counts_and_weights(
    config: KtoConfig, tmp_path: Path
) -> None:
    progress = ProgressList()
    report = run(config, tmp_path / "run", progress)
    manifest = verify_manifest(config.output_directory)
    assert report["held_out_accuracy"] > 0.95
    assert (manifest.kind, manifest.parents) == ("model", ("first",))
    assert report["train_thumbs"] + report["held_out_thumbs"] == 240
    downs = report["train_thumbs"] - report["train_thumbs_up"]
    assert report["up_weight"] * report["train_thumbs_up"] == pytest.approx(
        report["down_weight"] * downs
    )
    assert report["down_weight"] == 1.0
    first, last = progress.steps[0].metrics, progress.steps[-1].metrics
    assert first["baseline"] == pytest.approx(0.0, abs=1e-4)
    assert last["up_reward"] > last["down_reward"] + 0.1
    assert {"held_out_accuracy", "response_tokens", "kl"} <= set(last)


@pytest.mark.parametrize("lora", [pytest.param(None, marks=pytest.mark.long), LORA])
def test_a_killed_run_resumes_with_the_same_bits(
    config: KtoConfig, tmp_path: Path, lora: LoraConfig | None
) -> None:
    check_same_bits_after_a_kill(kto, replace(config, lora=lora), tmp_path)


def test_a_trimmed_vocabulary_trains_and_keeps_the_embedding(
    config: KtoConfig, tmp_path: Path
) -> None:
    run(replace(config, lora=LORA, vocabulary_rows=290), tmp_path / "run")
    merged, base = (
        load_file(d / "model.safetensors")
        for d in (config.output_directory, config.model_directory)
    )
    assert torch.equal(merged["model.embed_tokens.weight"], base["model.embed_tokens.weight"])


@pytest.fixture
def served_config(config: KtoConfig, tmp_path: Path) -> KtoConfig:
    """Return a config with answers served by the initial model."""
    served = sharp_model(tmp_path / "served-0")
    lines = write_lines(tmp_path / "served.jsonl", served_rows(served, 40))
    gentle = OptimizerConfig(learning_rate=1e-4)
    return replace(
        config,
        model_directory=served,
        data_path=lines,
        batch_rows=8,
        held_out_fraction=0.2,
        optimizer=gentle,
    )


def test_served_answers_use_their_own_ids_and_report_the_mismatch(
    served_config: KtoConfig, tmp_path: Path
) -> None:
    thumbs = kto.read_data(served_config, load_chat(served_config.model_directory))
    assert all(
        t.served and t.example.response == t.served.token_ids
        for t in (*thumbs.train, *thumbs.held_out)
    )
    report = run(served_config, tmp_path / "run")
    assert (report["answers_unsampled"], report["answers_unfit"]) == (0, 0)
    assert report["off_policy"]["served-0"]["answers"] == 40
    assert report["off_policy"]["served-0"]["mismatch"] < 1e-3


def test_answers_without_a_sample_are_counted_and_learned_from(
    config: KtoConfig, tmp_path: Path
) -> None:
    report = run(config, tmp_path / "run")
    assert (report["answers_unsampled"], report["off_policy"]) == (240, {})


def test_answers_of_another_version_are_refused_unless_allowed(
    served_config: KtoConfig, tmp_path: Path
) -> None:
    later = tmp_path / "later-1"
    shutil.copytree(served_config.model_directory, later)
    strict = replace(served_config, model_directory=later, off_policy=OffPolicyConfig(versions=()))
    with refused(
        OffPolicyError, field="off_policy.versions", reason="UNKNOWN", limit="later-1"
    ) as caught:
        run(strict, tmp_path / "strict")
    assert "served-0" in str(caught.value)
    assert "40" in str(caught.value)
    assert not strict.output_directory.exists()
    allowed = replace(strict, off_policy=OffPolicyConfig(versions=("served-0",)))
    assert set(run(allowed, tmp_path / "allowed")["off_policy"]) == {"served-0"}


@pytest.mark.parametrize("trimmed", [pytest.param(None, marks=pytest.mark.long), 290])
def test_importance_weighs_thumbs_also_after_a_kill(
    served_config: KtoConfig, tmp_path: Path, trimmed: int | None
) -> None:
    rows = [json.loads(line) for line in served_config.data_path.read_text().splitlines()]
    for row in rows[:20]:  # less probable under an older version
        row["served"] |= {
            "version": "older",
            "log_probs": [p - 0.05 for p in row["served"]["log_probs"]],
        }
    config = replace(
        served_config,
        data_path=write_lines(tmp_path / "older.jsonl", rows),
        off_policy=OffPolicyConfig(importance_cap=1.5),
        lora=None if trimmed is None else LORA,
        vocabulary_rows=trimmed,
    )
    straight, resumed = ProgressList(), ProgressList()
    report = run(config, tmp_path / "straight", straight)
    assert report["off_policy"]["older"]["importance"] > 1.2
    assert any(step.metrics["importance"] > 1.05 for step in straight.steps)
    assert report["off_policy"]["served-0"]["importance"] == pytest.approx(1.0, abs=1e-3)
    again = replace(config, output_directory=tmp_path / "again", checkpoint_every_steps=2)
    with pytest.raises(Killed):
        kto.run(again, RunContext(KillAfter(tmp_path / "killed", 2), ProgressList()))
    run(again, tmp_path / "killed", resumed)
    assert [step.metrics["loss"] for step in resumed.steps] == [
        step.metrics["loss"] for step in straight.steps[2:]
    ]


def test_an_answers_importance_scales_its_gradient(apart: Any) -> None:
    thumbs = toy_thumbs(16, 0.0).train[:8]

    def gradient(weights: list[float]) -> torch.Tensor:
        apart.policy.decoder.zero_grad()
        weighed = [
            replace(t, example=replace(t.example, weight=w))
            for t, w in zip(thumbs, weights, strict=True)
        ]
        kto.accumulate(
            apart, weighed, 0.3, (2.0, 1.0), toy_kto(microbatch_rows=3), no_autocast, ALONE
        )
        return torch.cat(
            [p.grad.flatten() for p in apart.policy.decoder.parameters() if p.grad is not None]
        ).clone()

    alone = [gradient([float(place == only) for place in range(8)]) for only in range(8)]
    mixed = gradient([0.25 * place for place in range(8)])
    expected = sum(0.25 * place * own for place, own in enumerate(alone))
    assert torch.allclose(mixed, expected, atol=1e-6)
    assert (gradient([1.0] * 8) - mixed).abs().max() > 1e-4


@pytest.mark.parametrize(
    ("ups", "downs", "wanted"), [(2, 8, (4.0, 1.0)), (6, 3, (1.0, 2.0)), (5, 5, (1.0, 1.0))]
)
def test_both_kinds_of_thumbs_have_equal_total_weight(
    ups: int, downs: int, wanted: tuple[float, float]
) -> None:
    example = TokenisedExample((2,), (STOP,))
    thumbs = Thumbs([*[Thumb(example, True)] * ups, *[Thumb(example, False)] * downs], [], (STOP,))
    assert kto.thumb_weights(thumbs, toy_kto()) == wanted
    assert kto.thumb_weights(thumbs, toy_kto(weights="equal")) == (1.0, 1.0)


def test_the_baseline_is_the_mean_log_ratio_of_mismatched_responses(apart: Any) -> None:
    batch = toy_thumbs(32, 0.0).train[:6]
    config = toy_kto(microbatch_rows=4)
    mismatched = [
        TokenisedExample(one.example.prompt, other.example.response)
        for one, other in zip(batch, [batch[-1], *batch[:-1]], strict=True)
    ]
    with torch.no_grad():
        wanted = float(apart.log_ratios(response_batch(mismatched)).mean())
        matched = float(apart.log_ratios(response_batch([thumb.example for thumb in batch])).mean())
    swapped = replace(apart, policy=apart.reference, reference=apart.policy)
    found = [kto.baseline(models, batch, config, no_autocast, ALONE) for models in (apart, swapped)]
    assert sorted(found) == pytest.approx([0.0, abs(wanted)], abs=1e-5)  # never below 0
    assert abs(wanted - matched) > 0.01
    halves = [Half(0), Half(1)]
    for half in halves:
        kto.baseline(apart, batch, config, no_autocast, half)
    assert sum(float(half.parts[0]) for half in halves) / 6 == pytest.approx(wanted, abs=1e-5)


def test_mismatched_responses_keep_to_the_limit_of_tokens(apart: Any) -> None:
    long, short = TokenisedExample((2,) * 8, (5, STOP)), TokenisedExample((3,), (4,) * 8 + (STOP,))
    seen: list[int] = []

    class Measured:
        def log_ratios(self, batch: Any) -> torch.Tensor:
            seen.append(int(batch.mask_BT.sum(1).max()))
            return torch.zeros(len(batch.ids_BT))

    batch = [Thumb(long, True), Thumb(short, False)]
    kto.baseline(Measured(), batch, toy_kto(max_tokens=10), no_autocast, ALONE)  # type: ignore[arg-type]
    assert seen == [10]


def test_neither_microbatches_nor_workers_change_the_gradient(apart: Any) -> None:
    batch = toy_thumbs(32, 0.0).train[:9]
    found = []
    for rows, workers in ((9, [ALONE]), (2, [ALONE]), (2, [Half(0), Half(1)])):
        for ranks in workers:
            kto.accumulate(
                apart, batch, 0.3, (2.0, 1.0), toy_kto(microbatch_rows=rows), no_autocast, ranks
            )
        found.append(gradients(apart))
    for others in found[1:]:
        assert all(
            torch.allclose(one, other, atol=1e-6)
            for one, other in zip(found[0], others, strict=True)
        )
    assert max(float(gradient.abs().max()) for gradient in found[0]) > 1e-4


def test_accuracy_is_the_share_of_correctly_ordered_responses(apart: Any) -> None:
    thumbs = toy_thumbs(64, 0.0).train
    with torch.no_grad():
        ratios = apart.log_ratios(response_batch([thumb.example for thumb in thumbs])).tolist()
    middle = sorted(ratios)[len(ratios) // 2]
    told = [
        Thumb(thumb.example, ratio >= middle) for thumb, ratio in zip(thumbs, ratios, strict=True)
    ]
    for held_out, wanted in ((told, 1.0), ([Thumb(t.example, not t.up) for t in told], 0.0)):
        assert kto.held_out_figures(apart, held_out, toy_kto(), no_autocast) == {
            "held_out_accuracy": wanted
        }


def test_the_split_is_by_prompt(config: KtoConfig) -> None:
    thumbs = kto.read_data(config, load_chat(config.model_directory))
    asked = [{thumb.example.prompt for thumb in part} for part in (thumbs.train, thumbs.held_out)]
    assert len(asked[1]) == 16
    assert not asked[0] & asked[1]


def test_rare_thumbs_are_in_both_parts(config: KtoConfig) -> None:
    """Hold out 4 of 40 prompts, of which 2 have a thumb down."""
    write_lines(config.data_path, thumb_rows(40, 2))
    chat = load_chat(config.model_directory)
    for seed in range(4):
        thumbs = kto.read_data(replace(config, seed=seed), chat)
        assert [len(thumbs.train), len(thumbs.held_out)] == [37, 5]
        for part in (thumbs.train, thumbs.held_out):
            assert [thumb.up for thumb in part].count(False) == 1


@pytest.mark.parametrize("downs", [0, 1])
def test_thumbs_that_cannot_be_in_both_parts_are_refused(config: KtoConfig, downs: int) -> None:
    write_lines(config.data_path, thumb_rows(40, downs))
    with refused(ConfigError, field="data_path", reason="EMPTY", limit="at least 2") as caught:
        kto.read_data(config, load_chat(config.model_directory))
    assert re.findall(r"\d+", str(caught.value))[:3] == ["40", "40", str(downs)]


@pytest.mark.parametrize(
    ("row", "field", "reason", "limit"),
    [
        (
            {"messages": user("a"), "response": "b", "prompt_id": "p"},
            "thumb",
            "MISSING",
            "'thumb'",
        ),
        (
            {"messages": user("a"), "response": "b", "prompt_id": "p", "thumb": True},
            "thumb",
            "UNKNOWN",
            "up, down",
        ),
        (
            {"messages": user("a"), "response": "", "prompt_id": "p", "thumb": "up"},
            "response",
            "EMPTY",
            "",
        ),
        (
            {"messages": user("a"), "response": "b", "thumb": "up", "prompt_id": 7},
            "prompt_id",
            "WRONG_TYPE",
            "",
        ),
    ],
)
def test_a_bad_line_is_named_by_line_and_field(
    config: KtoConfig, row: dict[str, object], field: str, reason: str, limit: str
) -> None:
    write_lines(config.data_path, [row])
    with refused(
        ExampleError, field=f"{config.data_path.name}:1:{field}", reason=reason, limit=limit
    ):
        kto.read_data(config, load_chat(config.model_directory))


@pytest.mark.parametrize(
    ("change", "field", "reason", "limit"),
    [
        ({"beta": 0.0}, "beta", "OUT_OF_RANGE", "above 0 and finite"),
        ({"weights": "angry"}, "weights", "UNKNOWN", "balanced, equal"),
        ({"batch_rows": 1}, "batch_rows", "OUT_OF_RANGE", "at least 2"),
        ({"vocabulary_rows": 9}, "vocabulary_rows", "CONFLICT", ""),
    ],
)
def test_settings_that_cannot_run_are_refused(
    config: KtoConfig, change: dict[str, Any], field: str, reason: str, limit: str
) -> None:
    with refused(ConfigError, field=field, reason=reason, limit=limit):
        replace(config, **change)
