"""Packages that commands import; torch alone takes seconds."""

import argparse
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.training.toys import user, write_lines
from training.__main__ import COMMANDS, main, parser
from training.recipes import names
from training.recipes.custom import loop_recipe
from training.recipes.custom.arguments import STAGE_HELP
from training.recipes.custom.stages import PRETRAIN, STAGES
from training.recipes.open_models import recipes as open_models

HEAVY = {
    *("torch", "ray", "transformers", "sympy", "pyarrow", "grpc", "math_verify", "reasoning_gym"),
    *("openvino", "minio", "lm_eval"),
}
DATA = "docs/long-tests.jsonl"  # rows of no stage
# Each command runs in a fork, so that it does not find what an earlier one imported.
RUN = """
import contextlib, io, json, os, sys
from training.__main__ import main
results = open(sys.argv[2], "w", buffering=1)
for arguments in json.loads(sys.argv[1]):
    child = os.fork()
    if not child:
        with contextlib.redirect_stderr(io.StringIO()) as errors:
            try:
                status = main(arguments)
            except SystemExit as end:
                status = end.code
        packages = sorted(name for name in sys.modules if "." not in name)
        print(json.dumps([status, packages, errors.getvalue()]), file=results)
        os._exit(0)
    os.waitpid(child, 0)
"""
ANSWERED = ("--help", *(f"{name} --help" for name in COMMANDS), "tasks list")
STAGE = "--model models/nano --work WORK"
REFUSED = (
    "",
    "lop",
    *(f"{name} --nonsense" for name in COMMANDS),
    *(f"{name} --model nowhere --data {DATA} --work WORK" for name in STAGES),
    *(f"{name} {STAGE}" for name in STAGES),
    *(f"{name} {STAGE} --data nowhere" for name in STAGES),
    *(f"{name} {STAGE} --data {DATA}" for name in STAGES),
    *(f"{name} {STAGE} --data {DATA} --set a=1" for name in STAGES),
    *(f"{name} {STAGE} --data {DATA} --set seed=x" for name in STAGES),
    f"sft {STAGE} --data {DATA} --gpus-per-worker 1",
    "run nowhere --work WORK",
    "run nowhere.py --work WORK",
    "run qwen3-0.6b-sft-grpo --work WORK --set sft.epoch=1",
    "run qwen3-0.6b-sft-grpo --work WORK --stages dpo",
    "plan --recipe nowhere",
    "plan --recipe qwen3-0.6b-sft-grpo --set sft.epoch=1",
    "plan --recipe qwen3-0.6b-sft-grpo --model nowhere",
    "plan --recipe auto --model nowhere",
    "pretrain --shape gpt2 --work WORK",
    "pretrain --shape gpt2-small --heads 7 --work WORK",
    "pretrain --texts nowhere --work WORK --set step=1",
    "pretrain --texts nowhere --work WORK --set batch_rows=0",
    "pretrain --texts nowhere --work WORK --tokenizer nowhere",
    "scaling --texts nowhere --work WORK",
    "tokenizer train nowhere.txt --vocabulary 300 --output WORK",
    "tasks write nowhere --items 1 --output WORK",
    "report nowhere",
    "compare nowhere nowhere",
    "chat nowhere",
    "generate nowhere --prompt Hello",
    "evaluate nowhere --tasks piqa",
    f"perplexity nowhere --text {DATA}",
    "probes nowhere --kinds safety_refusal",
    "lineage --state nowhere",
    "memory nowhere --gpu-gib 24 --context 2048",
)
MISSING_WEIGHTS = "INPUTS/bare: has no model.safetensors"
TASK = "rlvr --task chain_sum --model models/nano --work WORK"
# The fields that the errors of these commands name, the one of a file its path.
REFUSED_FIELDS = {
    **{f"{name} {STAGE} --data training": "data" for name in STAGES},
    **{
        f"{name} {STAGE} --data INPUTS/tasks.jsonl --set machine.device=gpu": "machine.device"
        for name in STAGES
    },
    "pretrain --texts INPUTS/nowhere --work WORK": "texts: INPUTS/nowhere",
    "pretrain --texts INPUTS/empty.txt --work WORK": "texts: INPUTS/empty.txt",
    "pretrain --texts INPUTS/folder --work WORK": "texts: INPUTS/folder",
    "pretrain --texts INPUTS/one.txt --work WORK": "evaluate_every_steps",
    "pretrain --texts INPUTS/one.txt --work WORK --set machine.device=gpu": "machine.device",
    "scaling --texts INPUTS/nowhere --work WORK": "texts: INPUTS/nowhere",
    "scaling --texts INPUTS/empty.txt --work WORK": "texts: INPUTS/empty.txt",
    "scaling --texts INPUTS/one.txt --work WORK": "texts",
    "tokenizer train INPUTS/nowhere --vocabulary 300 --output WORK": "texts: INPUTS/nowhere",
    "tokenizer train INPUTS/empty.txt --vocabulary 300 --output WORK": "texts: INPUTS/empty.txt",
    "rlvr --task nowhere --model models/nano --work WORK": "task",
    f"{TASK} --name runs": "name",
    f"{TASK} --set step=1": "step",
    f"{TASK} --set updates=0": "updates",
    f"{TASK} --set policy_optimizer.epsilon=x": "policy_optimizer.epsilon",
    f"{TASK} --set policy_optimizer.schedule=square": "policy_optimizer.schedule: 'square'",
    f"{TASK} --algorithm ppo --set critic_optimizer.algorithm=lion": "critic_optimizer.algorithm",
    f"{TASK} --set machine.device=gpu": "machine.device: 'gpu' is cuda",
    f"{TASK} --set machine.dtype=float16": "machine.dtype: 'float16'",
    f"{TASK} --set lora.targets=q_proj,head": "lora.targets: 'head'",
    **{
        f"{name} --model INPUTS/bare --work WORK --data INPUTS/tasks.jsonl": MISSING_WEIGHTS
        for name in STAGES
    },
    "rlvr --task chain_sum --model INPUTS/bare --work WORK": MISSING_WEIGHTS,
    "rlvr --task chain_sum --model docs --work WORK": "config.json",
    "run qwen3-0.6b-sft-grpo --models INPUTS --work WORK": "model: INPUTS/qwen3-0.6b",
    "generate INPUTS/bare --prompt x": MISSING_WEIGHTS,
    "chat INPUTS/bare": MISSING_WEIGHTS,
    "chat models/nano --compare INPUTS/bare": MISSING_WEIGHTS,
    "perplexity INPUTS/bare --text INPUTS/one.txt": MISSING_WEIGHTS,
    "generate nowhere --prompt x": "model",
    "generate docs --prompt x": "config.json",
    "generate models/nano --prompt x --temperature 3": "temperature",
    "generate models/nano --prompt x --beams 0": "beams",
    "generate models/nano --prompt x --device gpu": "device",
    "chat nowhere": "model",
    "chat docs": "config.json",
    "chat models/nano --compare nowhere": "compare",
    "chat models/nano --max-tokens 0": "max_tokens",
    "chat models/nano --device cuda:x": "device",
    "perplexity docs --text INPUTS/one.txt": "config.json",
    "perplexity models/nano --text INPUTS/nowhere": "texts: INPUTS/nowhere",
    "perplexity models/nano --text INPUTS/one.txt --device auto:1": "device",
}

LOOP = "loop --state WORK --no-rollout"
# The same for the configuration of a run of the loop, whose classes import pyarrow.
LOOP_FIELDS = {
    f"{LOOP} --recipe nano --set sft.epoch=1": "sft.epoch",
    f"{LOOP} --recipe auto --set gate.margin=x": "gate.margin",
    f"{LOOP} --recipe small --set evaluation.machine.threads=-1": "evaluation.machine.threads",
    f"{LOOP} --recipe nano --set sft.optimizer.schedule=square": "sft.optimizer.schedule: 'square'",
    f"{LOOP} --recipe auto --set ppo.machine.device=cuda:x": "ppo.machine.device: 'cuda:x'",
    f"{LOOP} --recipe small --set judge.loss=hinge": "judge.loss: 'hinge'",
    f"{LOOP} --recipe nano --set canary.share=2": "canary.share: 2.0",
    f"{LOOP} --recipe nano --set gate.margins.style_length=0": "gate.margins.style_length: 0.0",
    f"{LOOP} --recipe nano --set sets.held_out_fraction=1": "sets.held_out_fraction: 1.0",
    f"{LOOP} --recipe nano --canary-share 2": "canary.share: 2.0",
    f"{LOOP} --recipe nano --texts nowhere": "texts",
    f"{LOOP} --recipe nano --device gpu": "device",
    "plan --recipe auto --model qwen3-0.6b --set sft.epoch=1": "sft.epoch",
    "plan --recipe auto --model qwen3-0.6b --set ppo.updates=0": "ppo.updates",
    "plan --recipe auto --model qwen3-0.6b --set judge.loss=hinge": "judge.loss",
    "plan --recipe auto --model qwen3-0.6b --set sft.machine.device=gpu": "sft.machine.device",
}
NAMED = {**REFUSED_FIELDS, **LOOP_FIELDS}


@dataclass(frozen=True)
class Result:
    """End of a command; `packages` are those of HEAVY that it imports."""

    status: int
    packages: set[str]
    error: str


def results_of(commands: Sequence[str], folder: Path) -> dict[str, Result]:
    """Return the results of commands.

    Commands write to `folder` where they name the folder WORK, and read from it where they name
    the folder INPUTS.
    """
    places = {"WORK": folder / "work", "INPUTS": folder}
    asked = [
        re.sub("|".join(places), lambda found: str(places[found[0]]), command).split()
        for command in commands
    ]
    written = folder / "results.jsonl"
    program = [sys.executable, "-c", RUN, json.dumps(asked), str(written)]
    subprocess.run(program, stdin=subprocess.DEVNULL, capture_output=True, check=True)
    found = [json.loads(line) for line in written.read_text().splitlines()]
    return {
        command: Result(status, HEAVY & set(packages), error)
        for command, (status, packages, error) in zip(commands, found, strict=True)
    }


def test_help_imports_no_heavy_packages(tmp_path: Path) -> None:
    assert results_of(ANSWERED, tmp_path) == {command: Result(0, set(), "") for command in ANSWERED}


def test_refusals_import_no_heavy_packages(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty.txt").touch()
    (tmp_path / "one.txt").write_text("Once upon a time.")
    bare = tmp_path / "bare"  # a model without weights
    shutil.copytree("models/nano", bare, ignore=shutil.ignore_patterns("*.safetensors"))
    write_lines(tmp_path / "tasks.jsonl", [{"messages": user("1 + 1?"), "task": "chain_sum"}])
    results = results_of((*REFUSED, *NAMED), tmp_path)
    imported = {
        command: found.packages - ({"pyarrow"} if command in LOOP_FIELDS else set())
        for command, found in results.items()
    }
    assert {command: packages for command, packages in imported.items() if packages} == {}
    assert [name for name, found in results.items() if found.status not in (1, 2)] == []
    found = {command: results[command].error.replace(str(tmp_path), "INPUTS") for command in NAMED}
    assert {
        command: error
        for command, error in found.items()
        if not re.fullmatch(rf"failed: {re.escape(NAMED[command])}(?!\w).*\n", error)
    } == {}
    assert not (tmp_path / "work").exists(), "a refused command leaves nothing"


IMPORTED = """
import json, sys
import training.cluster.runner, {module}
print(json.dumps([name for name in sys.modules if name.startswith({slow!r})]))
"""
# Parts of torch, and clients, that a stage in one process without a bucket does not need.
SLOW = ("torch.distributed.checkpoint", "torch.distributed.tensor", "sympy", "ray", "minio")


@pytest.mark.parametrize("module", sorted({stage.module for stage in STAGES.values()} | {PRETRAIN}))
def test_a_stage_in_one_process_imports_no_parallelism_and_no_bucket(module: str) -> None:
    program = IMPORTED.format(module=module, slow=SLOW)
    command = [sys.executable, "-c", program]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(ended.stdout) == []


def test_generating_imports_torch_and_little_else(tmp_path: Path) -> None:
    commands = ("generate models/nano --prompt Hello --max-tokens 2", "chat models/nano")
    results = results_of(commands, tmp_path).values()
    assert [(found.status, found.packages) for found in results] == [(0, {"torch"})] * len(commands)


def test_every_command_of_the_modules_is_listed_and_described() -> None:
    choices = next(
        action.choices
        for action in parser()._actions
        if isinstance(action, argparse._SubParsersAction)
    )
    assert set(choices) == set(COMMANDS)
    for name, command in choices.items():
        assert command.get_default("command") or command._subparsers, name


def described(above: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """Yield the parsers of all commands below a parser."""
    for action in above._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from described(command)
                yield command


def test_each_argument_has_a_help_a_short_value_and_its_default_in_one_form() -> None:
    wrong = [
        f"{command.prog} {name}: {action.help}"
        for command in described(parser())
        for action in command._actions
        if action.help != argparse.SUPPRESS and not isinstance(action, argparse._SubParsersAction)
        for name in [action.option_strings[-1] if action.option_strings else action.metavar]
        if not action.help
        or (action.nargs != 0 and not action.metavar and not action.choices)
        or (isinstance(action.metavar, str) and (" " in action.metavar or action.metavar.islower()))
        or re.search(r"(?<!\()default(?!\)s)|default(?!: |\)s)", action.help)
        or action.help.endswith(".")
    ]
    assert wrong == []


def test_help_begins_with_the_required_options(capsys: pytest.CaptureFixture[str]) -> None:
    for command, usage in (
        ("sft", "--model DIR --data FILE --work DIR [options]"),
        ("evaluate", "[MODEL] [options]"),
        ("tasks write", "--items N --output FILE TASK [options]"),
    ):
        with pytest.raises(SystemExit, match="0"):
            main([*command.split(), "--help"])
        shown = " ".join(capsys.readouterr().out.partition("\n\n")[0].split())
        assert shown == f"usage: thumbwheel train {command} {usage}"


def test_help_lists_all_recipe_names() -> None:
    assert tuple(open_models.RECIPES) == names.OPEN_MODELS
    assert tuple(loop_recipe.RECIPES) == names.LOOP_RECIPES
    assert set(STAGE_HELP) == set(STAGES)
    assert {name for name, learner in STAGE_HELP.items() if learner.is_judged} == {
        name for name, stage in STAGES.items() if stage.is_policy
    }
