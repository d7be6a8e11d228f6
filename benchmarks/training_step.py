"""Speed of a step of SFT, GRPO and PPO compared with TRL on the same model, data and threads.

`python benchmarks/training_step.py`. TRL runs in its own environments (locks/oracle*.txt: 1.16, and
1.12 for PPO, removed in later versions). Both sides are processes that wait for a signal before
each step. They alternate step by step, so other processes slow both; with one thread, processor
time is measured. The ratio compares the sums over all rounds and is printed with the interquartile
range of the rounds. Weights are new, so responses rarely end by themselves, and both sides sample
the same number of tokens. Neither side saves, logs or evaluates.
"""

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
CASES = ("sft", "grpo", "ppo")
WORDS = ("good", "bad", "tree", "house", "river", "stone", "cloud", "bird")
# Vocabulary, hidden size, layers, heads, key-value heads, MLP. The first two are our pre-training
# recipes. Open models of the third size have even more rows (Gemma 3 270M: 262,144 of 640).
SHAPES = {
    "1M": (1024, 112, 6, 4, 4, 304),
    "10M": (4096, 320, 7, 5, 5, 864),
    "wide": (32_768, 320, 7, 5, 5, 864),
}
WARM_UP = 2
SFT_ROWS, GROUPS, GROUP, PPO_ROWS, RESPONSE_TOKENS = 16, 8, 8, 64, 48
RATE, KL = 1e-6, 0.02
NO_INTERVAL = 10**9
Settings = dict[str, Any]
Stage = Callable[[object], object]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--shapes", nargs="+", choices=sorted(SHAPES), default=list(SHAPES))
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--side", choices=("ours", "theirs"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        SIDES[options.side](
            options.cases[0], options.folder, WARM_UP + options.rounds, options.threads
        )
        return
    cores, load = os.cpu_count(), os.getloadavg()[0]
    print(
        f"{platform.processor() or platform.machine()}, {cores} cores, load {load:.1f}, torch"
        f" {metadata.version('torch')}"
    )
    print(
        f"{options.threads} thread(s), {options.rounds} rounds after {WARM_UP} to warm up, float32"
    )
    for shape in options.shapes:
        with TemporaryDirectory() as folder:
            write_inputs(Path(folder), shape, WARM_UP + options.rounds)
            for case in options.cases:
                compare(case, shape, Path(folder), options.rounds, options.threads)


def compare(case: str, shape: str, folder: Path, rounds: int, threads: int) -> None:
    """Measure both sides in alternating rounds and print one line."""
    from tests.oracle.environments import python_of

    python = python_of("oracle_ppo" if case == "ppo" else "oracle")
    sides = [started(Path(sys.executable), "ours", case, folder, rounds, threads)]
    sides.append(started(python, "theirs", case, folder, rounds, threads))
    times = [[one_step(side) for side in sides] for _ in range(WARM_UP + rounds)]
    for side in sides:
        side.kill()
        side.wait()
    ours, theirs = (sum(column) for column in zip(*times[WARM_UP:], strict=True))
    low, _, high = statistics.quantiles(
        [theirs_one / ours_one for ours_one, theirs_one in times[WARM_UP:]], n=4
    )
    print(
        f"{case:<5}{shape:>5}  ours {ours / rounds:7.3f} s a step, TRL {theirs / rounds:7.3f} s: "
        f"{theirs / ours:.2f} times as fast (middle half {low:.2f} to {high:.2f})",
        flush=True,
    )


def started(
    python: Path, side: str, case: str, folder: Path, rounds: int, threads: int
) -> subprocess.Popen[str]:
    """Start a side and wait until everything is loaded."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    environment |= {
        "OMP_NUM_THREADS": str(threads),
        "OMP_WAIT_POLICY": "passive",
        "PYTHONWARNINGS": "ignore",
    }
    options = ["--side", side, "--cases", case, "--rounds", str(rounds), "--threads", str(threads)]
    with (folder / f"{side}-{case}.log").open("w") as log:
        process = subprocess.Popen(
            [str(python), str(Path(__file__)), *options, "--folder", str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            cwd=folder,
            env=environment,
        )
    listen(process, "ready", folder / f"{side}-{case}.log")
    return process


def one_step(process: subprocess.Popen[str]) -> float:
    """Run one step and return its seconds."""
    assert process.stdin
    process.stdin.write("go\n")
    process.stdin.flush()
    return float(listen(process, "took", None).split()[1])


def listen(process: subprocess.Popen[str], word: str, log: Path | None) -> str:
    """Return the next line with this prefix; trainers also print other lines."""
    assert process.stdout
    for line in process.stdout:
        if line.startswith(word):
            return line
    sys.exit(f"a side ended early\n{log.read_text()[-3000:] if log else ''}")


class StepBarrier:
    """Barrier between steps: report the time of the last step and wait for the signal.

    The first call only waits.
    """

    def __init__(self, threads: int) -> None:
        self._out, sys.stdout = sys.stdout, sys.stderr
        self._clock = time.process_time if threads == 1 else time.perf_counter
        self._began: float | None = None

    def __call__(self, *_: object) -> None:
        if self._began is None:
            print("ready", file=self._out, flush=True)
        else:
            print(f"took {self._clock() - self._began:.6f}", file=self._out, flush=True)
        sys.stdin.readline()
        self._began = self._clock()


def write_inputs(folder: Path, shape: str, steps: int) -> None:
    """Write a model with tokenizer and template, a reward model on it, and rows for every step."""
    from training.artifacts.manifest import write_manifest
    from training.model.backbone import Backbone
    from training.model.checkpoint import save_decoder
    from training.model.config import llama_json, parse_config
    from training.model.reward import RewardModel, ScalarHead, ScalarModel, save_reward_model
    from training.model.transformer import Decoder, initialise
    from training.tokenization.byte_pairs import train_tokenizer

    rng = random.Random(1)

    def words(low: int, high: int) -> str:
        return " ".join(rng.choices(WORDS, k=rng.randint(low, high)))

    # Embedding rows without a token are sampled too.
    train_tokenizer([" ".join(WORDS)] * 50, 300, folder / "model")
    decoder = Decoder(parse_config(llama_json(*SHAPES[shape])))
    initialise(decoder, 1)
    save_decoder(decoder, folder / "model")
    write_manifest(folder / "model", kind="model", version="model")
    reward = RewardModel(ScalarModel(Backbone(decoder), ScalarHead(SHAPES[shape][1], seed=2)))
    save_reward_model(reward, None, folder / "model", folder / "reward")
    write_manifest(folder / "reward", kind="reward_model", version="reward")
    asked = [
        {"messages": [{"role": "user", "content": f"{words(4, 24)} {row}"}]}
        for row in range(steps * PPO_ROWS)
    ]
    write_lines(folder / "prompts.jsonl", asked)
    write_lines(
        folder / "sft.jsonl",
        [{**row, "response": words(8, 64)} for row in asked[: steps * SFT_ROWS]],
    )


def write_lines(path: Path, rows: list[Settings]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def read_lines(path: Path) -> list[Settings]:
    return [json.loads(line) for line in path.read_text().splitlines()]


# Our implementation.


def ours(case: str, folder: Path, steps: int, threads: int) -> None:
    from training.runtime.context import Lineage, Machine, RunContext

    barrier = StepBarrier(threads)
    places = {"model_directory": folder / "model", "output_directory": folder / f"ours-{case}"}
    common = {**places, "lineage": Lineage(case), "machine": Machine(threads, threads)}
    stage = {"sft": _our_sft, "grpo": _our_grpo, "ppo": _our_ppo}[case](folder, steps, common)
    context = RunContext(_NoCheckpoints(), barrier)
    barrier()
    stage(context)


def _our_sft(folder: Path, steps: int, common: Settings) -> Stage:
    from training.stages.config import SftConfig
    from training.stages.sft import run

    sizes: Settings = {
        "microbatch_rows": SFT_ROWS,
        "batch_rows": SFT_ROWS,
        "held_out_fraction": 0.0,
    }
    rest: Settings = {
        "data_path": folder / "sft.jsonl",
        "optimizer": _our_rate(),
        "checkpoint_every_steps": NO_INTERVAL,
    }
    return partial(run, SftConfig(**common, **sizes, **rest))


def _our_grpo(folder: Path, steps: int, common: Settings) -> Stage:
    from training.stages.grpo import run
    from training.stages.policy_config import GrpoConfig

    sizes: Settings = {
        "prompts_per_update": GROUPS,
        "samples_per_prompt": GROUP,
        "minibatch_rows": GROUPS * GROUP,
    }
    rest: Settings = {"reward_model_directory": None, "epochs_per_update": 1, "kl_coefficient": KL}
    config = GrpoConfig(**common, **_our_policy(folder, steps), **sizes, **rest)
    return partial(
        run, config, verifier=lambda answers: [float(answer.text.count("o")) for answer in answers]
    )


def _our_ppo(folder: Path, steps: int, common: Settings) -> Stage:
    from training.rl.config import KlConfig
    from training.stages.policy_config import PpoConfig
    from training.stages.ppo import run

    sizes: Settings = {
        "prompts_per_update": PPO_ROWS,
        "minibatch_rows": PPO_ROWS // 2,
        "epochs_per_update": 2,
    }
    rest: Settings = {
        "reward_model_directory": folder / "reward",
        "critic_optimizer": _our_rate(),
        "kl": KlConfig(KL),
    }
    return partial(run, PpoConfig(**common, **_our_policy(folder, steps), **sizes, **rest))


def _our_policy(folder: Path, steps: int) -> Settings:
    return {
        "data_path": folder / "prompts.jsonl",
        "updates": steps,
        "max_response_tokens": RESPONSE_TOKENS,
        "policy_optimizer": _our_rate(),
        "checkpoint_every_updates": NO_INTERVAL,
        "kl_ceiling_nats": 1e9,
        "length_floor_fraction": 0.0,
    }


def _our_rate() -> object:
    from training.optim.config import OptimizerConfig

    return OptimizerConfig(learning_rate=RATE, schedule="constant", warmup_steps=0)


class _NoCheckpoints:
    """Checkpoint store that saves nothing, as on TRL's side."""

    def save(self, step: int, write: Callable[[Path], None], on_notice: bool = False) -> None: ...

    def latest(self, before: int | None = None) -> Path | None:
        return None


# TRL's implementation, run by the Python of its own environment.


def theirs(case: str, folder: Path, steps: int, threads: int) -> None:
    import torch

    torch.set_num_threads(threads)
    barrier = StepBarrier(threads)
    trainer = {"sft": _trl_sft, "grpo": _trl_grpo, "ppo": _trl_ppo}[case](folder, steps)
    trainer.add_callback(StepEndCallback(barrier))
    barrier()
    trainer.train()


class StepEndCallback:
    """Callback for TRL's trainers, which call every event; only the end of a step is used."""

    def __init__(self, barrier: StepBarrier) -> None:
        self._pace = barrier

    def on_step_end(self, *_: object, **__: object) -> None:
        self._pace()

    def __getattr__(self, event: str) -> Callable[..., None]:
        if not event.startswith("on_"):
            raise AttributeError(event)
        return lambda *_, **__: None


def _trl_sft(folder: Path, steps: int) -> Any:
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    rows = [
        {
            "prompt": row["messages"],
            "completion": [{"role": "assistant", "content": row["response"]}],
        }
        for row in read_lines(folder / "sft.jsonl")
    ]
    return SFTTrainer(
        str(folder / "model"),
        args=SFTConfig(
            **_common(folder, SFT_ROWS, steps),
            completion_only_loss=True,
            packing=False,
            max_length=None,
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=_tokenizer(folder),
    )


def _trl_grpo(folder: Path, steps: int) -> Any:
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    return GRPOTrainer(
        str(folder / "model"),
        reward_funcs=lambda completions, **_: [
            float(one[0]["content"].count("o")) for one in completions
        ],
        args=GRPOConfig(
            **_common(folder, GROUPS * GROUP, steps),
            num_generations=GROUP,
            steps_per_generation=1,
            max_completion_length=RESPONSE_TOKENS,
            temperature=1.0,
            beta=KL,
            model_init_kwargs={"dtype": "float32"},
        ),
        train_dataset=Dataset.from_list(
            [{"prompt": row["messages"]} for row in read_lines(folder / "prompts.jsonl")]
        ),
        processing_class=_tokenizer(folder),
    )


def _trl_ppo(folder: Path, steps: int) -> object:
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    def causal() -> Any:
        return AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)

    def scalar() -> Any:
        return AutoModelForSequenceClassification.from_pretrained(
            folder / "model", num_labels=1, dtype=torch.float32
        )

    tokenizer = _tokenizer(folder)
    prompts = [
        tokenizer.apply_chat_template(row["messages"], add_generation_prompt=True)
        for row in read_lines(folder / "prompts.jsonl")
    ]
    rows = Dataset.from_list([{"input_ids": getattr(ids, "input_ids", ids)} for ids in prompts])
    common = {
        name: value
        for name, value in _common(folder, PPO_ROWS // 2, steps).items()
        if name != "max_steps"
    }
    return PPOTrainer(
        PPOConfig(
            **common,
            gradient_accumulation_steps=2,
            num_mini_batches=2,
            num_ppo_epochs=2,
            total_episodes=steps * PPO_ROWS,
            local_rollout_forward_batch_size=PPO_ROWS // 2,
            num_sample_generations=0,
            response_length=RESPONSE_TOKENS,
            stop_token="eos",
            temperature=1.0,
            kl_coef=KL,
        ),
        processing_class=tokenizer,
        model=causal(),
        ref_model=causal(),
        reward_model=scalar(),
        value_model=scalar(),
        train_dataset=rows,
        eval_dataset=rows.select(range(1)),
    )


def _common(folder: Path, rows: int, steps: int) -> Settings:
    return {
        "output_dir": str(folder / "trl"),
        "use_cpu": True,
        "bf16": False,
        "per_device_train_batch_size": rows,
        "max_steps": steps,
        "learning_rate": RATE,
        "gradient_checkpointing": False,
        "report_to": "none",
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
    }


def _tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder / "model", padding_side="left")


SIDES = {"ours": ours, "theirs": theirs}

if __name__ == "__main__":
    sys.path[0] = str(ROOT)  # in the folder of this file, `training` would resolve to this file
    main()
