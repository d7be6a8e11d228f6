"""Train models/small/adapter, and judge the small model's answers to the first questions of users.

`train` makes the runs whose mean is the adapter, and resumes after an interruption;
docs/decisions/small-model.md lists the preceding commands. `answers` asks a model directory or a
running system, `sheet` prints the answers for judgement, and `count` counts the sensible ones.
`pairs` writes preference pairs for DPO.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from training.cluster.runner import StageRun, run_stage
from training.data.chat import Message
from training.errors import ConfigError, UnavailableError
from training.evaluation.answers import ChatModel
from training.evaluation.config import Sampling
from training.recipes.small_sft.adapter import (
    BASE_VERSION,
    RUNS,
    VERSION,
    publish_adapter,
    small_sft,
)
from training.recipes.small_sft.contact import (
    ask_model,
    ask_system,
    blind_sheet,
    count_sensible,
    judge_by_rule,
    read_answers,
    read_contact_questions,
    write_answers,
)
from training.recipes.small_sft.dataset import DatasetConfig, build_dataset, write_dataset
from training.recipes.small_sft.pairs import choose_questions, make_pairs
from training.recipes.small_sft.sources import Example
from training.runtime.context import Progress
from training.runtime.paths import read_file
from training.stages import sft
from training.verification.checks import VerificationError
from training.verification.sandbox.runs import open_sandbox

# As in a conversation of users, so that the rejected answers are those that users get.
PAIR_SAMPLING = Sampling(
    samples_per_prompt=1, max_response_tokens=48, temperature=0.7, top_p=0.9, seed=1
)
COMMITTED = Path(__file__).parents[3] / "models" / "small" / "adapter"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m training.recipes.small_sft",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    command = commands.add_parser("train", help="texts, SFT and publication of the adapter")
    command.add_argument(
        "--work", type=Path, required=True, help="folder with packages/ and the base; runs go there"
    )
    command.add_argument("--into", type=Path, default=COMMITTED, help="folder of the adapter")
    command.set_defaults(command=train)
    command = commands.add_parser("answers", help="ask the questions of a first contact")
    asked = command.add_mutually_exclusive_group(required=True)
    asked.add_argument("--model", type=Path, help="model directory; answers are greedy")
    asked.add_argument("--url", help="running system, asked like its page asks it")
    command.add_argument("--key-file", type=Path, help="API key of the system")
    command.add_argument("--output", type=Path, required=True, help="file for the answers")
    command.set_defaults(command=answers)
    command = commands.add_parser("sheet", help="print answers that only a person can judge")
    command.add_argument("answers", type=Path, nargs="+", help="files of `answers`, one a version")
    command.set_defaults(command=sheet)
    command = commands.add_parser("count", help="count sensible answers")
    command.add_argument("answers", type=Path, help="file of `answers`")
    command.add_argument(
        "--sheet", type=Path, required=True, help="judged sheet: `sensible` is set"
    )
    command.set_defaults(command=count)
    command = commands.add_parser("pairs", help="write pairs for DPO with a model's own answers")
    command.add_argument("--model", type=Path, required=True, help="model directory")
    command.add_argument("--count", type=int, default=280, help="questions to ask (default 280)")
    command.add_argument("--output", type=Path, required=True, help="file for the pairs")
    command.set_defaults(command=pairs)
    options = parser.parse_args()
    try:
        options.command(options)
    except (ConfigError, UnavailableError, VerificationError) as error:
        sys.exit(f"error: {error.text}")


def train(options: argparse.Namespace) -> None:
    """Build the texts of each run, train, and publish the mean of the runs with its answers."""
    work: Path = options.work
    command = ["git", "rev-parse", "HEAD"]
    commit = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603
    base, started = work / BASE_VERSION, time.monotonic()
    models, sources = [], []
    for run in range(RUNS):
        texts, storage = work / f"texts-{run}.jsonl", work / f"runs-{run}"
        config = DatasetConfig(seed=DatasetConfig().seed + run)
        examples, counts = build_dataset(config, work / "packages")
        texts_sha256 = write_dataset(examples, texts)
        print(
            f"==> run {run + 1} of {RUNS}, {len(examples)} examples: {json.dumps(counts)}",
            flush=True,
        )
        stage = small_sft(base, texts, texts_sha256, storage / VERSION, commit)
        run_stage(StageRun("small-sft", sft.run, stage), storage, _say)
        models.append(storage / VERSION)
        sources.append(counts)
    manifest = publish_adapter(models, options.into, base, sources, time.monotonic() - started)
    for sample in manifest.report["samples"]:
        print(f"\n> {sample['question']}\n{sample['answer']}")


def answers(options: argparse.Namespace) -> None:
    """Ask all questions, write the answers and print them."""
    questions = read_contact_questions()
    if options.model:
        found = ask_model(options.model, questions)
    elif options.key_file:
        found = ask_system(
            options.url, read_file("--key-file", options.key_file).strip(), questions
        )
    else:
        raise ConfigError("--key-file: a running system needs a key", field="key_file")
    write_answers(found, options.output)
    for question, answer in zip(questions, found, strict=True):
        print(f"\n> {question.text}\n{answer.text}")


def sheet(options: argparse.Namespace) -> None:
    """Print the rows of a sheet as JSON lines; the judge sets `sensible` to true or false."""
    judge = partial(judge_by_rule, sandbox=open_sandbox(os.environ))
    for row in blind_sheet([read_answers(path) for path in options.answers], judge):
        print(json.dumps(row, ensure_ascii=False))


def count(options: argparse.Namespace) -> None:
    """Print the counts of a version as JSON."""
    rows = [json.loads(line) for line in options.sheet.read_text().splitlines()]
    verdicts = {row["label"]: row["sensible"] for row in rows}
    judge = partial(judge_by_rule, sandbox=open_sandbox(os.environ))
    print(json.dumps(count_sensible(read_answers(options.answers), verdicts, judge), indent=2))


def pairs(options: argparse.Namespace) -> None:
    """Sample an answer of the model to each question and write the pairs."""
    speaker = ChatModel(options.model)

    def sampled(examples: Sequence[Example]) -> list[str]:
        prompts = [[Message("user", example.turns[0])] for example in examples]
        return [answer.text for answer in speaker.answer(prompts, PAIR_SAMPLING)]

    chosen = choose_questions(options.count, random.Random(PAIR_SAMPLING.seed))
    written = 0
    with options.output.open("w") as file:
        for start in range(0, len(chosen), PAIR_SAMPLING.batch_prompts):
            rows = make_pairs(chosen[start : start + PAIR_SAMPLING.batch_prompts], sampled)
            file.writelines(row + "\n" for row in rows)
            file.flush()
            written += len(rows)
            print(f"{written} pairs", flush=True)


def _say(progress: Progress) -> None:
    figures = "  ".join(f"{name} {value:.4g}" for name, value in progress.metrics.items())
    print(f"==> step {progress.step} of {progress.total_steps}  {figures}", flush=True)


if __name__ == "__main__":
    main()
