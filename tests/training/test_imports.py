"""Packages that commands import; torch alone takes seconds."""

import json
import subprocess
import sys

from training.recipes import names
from training.recipes.custom.arguments import STAGE_HELP
from training.recipes.custom.stages import STAGES
from training.recipes.open_models import recipes as open_models
from training.recipes.rlvr import recipe as rlvr

HEAVY = {"torch", "ray", "transformers", "sympy", "pyarrow", "grpc", "math_verify", "reasoning_gym"}
RUN = """
import json, sys
from training.__main__ import main
imported = []
for arguments in json.loads(sys.argv[1]):
    try:
        main(arguments)
    except SystemExit:
        pass
    imported.append(sorted(name for name in sys.modules if "." not in name))
sys.stdout = sys.__stderr__
print("\\n" + json.dumps(imported), file=sys.stderr)
"""
LIGHT = (
    "--help",
    "lop",
    "sft --model models/nano",
    "sft --model models/nano --data docs/long-tests.jsonl --work nowhere",
    "rlvr --help",
    "tokenizer train nowhere.txt --vocabulary 300 --output nowhere",
    "report nowhere",
    "compare nowhere nowhere",
    "lineage --state nowhere",
    "chat nowhere",
    "tasks list",
    "pretrain --shape gpt2 --work nowhere",
    "pretrain --shape gpt2-small --heads 7 --work nowhere",
)


def imported(*commands: str) -> dict[str, set[str]]:
    """Return the packages of HEAVY in a process after each of these commands."""
    asked = json.dumps([command.split() for command in commands])
    ended = subprocess.run(
        [sys.executable, "-c", RUN, asked],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
    )
    return {
        command: HEAVY & set(names)
        for command, names in zip(commands, json.loads(ended.stderr.splitlines()[-1]), strict=True)
    }


def test_light_commands_and_usage_errors_import_no_heavy_packages() -> None:
    assert imported(*LIGHT) == {command: set() for command in LIGHT}


def test_generating_imports_torch_and_little_else() -> None:
    generate = "generate models/nano --prompt Hello --max-tokens 2"
    assert imported(generate, "chat models/nano") == {
        generate: {"torch"},
        "chat models/nano": {"torch"},
    }


def test_help_lists_all_recipe_names() -> None:
    assert tuple(open_models.RECIPES) == names.OPEN_MODELS
    assert set(STAGE_HELP) == set(STAGES)
    assert {name for name, learner in STAGE_HELP.items() if learner.is_judged} == {
        name for name, stage in STAGES.items() if stage.is_policy
    }
    assert tuple(sorted(rlvr.SIZES)) == names.RLVR_SIZES
    assert tuple(sorted(rlvr.ALGORITHMS)) == names.RLVR_ALGORITHMS
