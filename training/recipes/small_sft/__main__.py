"""Train models/small/adapter: texts, SFT and publication; resumes after an interruption.

docs/decisions/small-model.md lists the preceding commands.
"""

import argparse
import json
import subprocess
import time
from pathlib import Path

from training.cluster.runner import StageRun, run_stage
from training.recipes.small_sft.adapter import BASE_VERSION, VERSION, publish_adapter, small_sft
from training.recipes.small_sft.dataset import DatasetConfig, build_dataset, write_dataset
from training.runtime.context import Progress
from training.stages import sft

COMMITTED = Path(__file__).parents[3] / "models" / "small" / "adapter"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m training.recipes.small_sft", description=__doc__
    )
    parser.add_argument(
        "--work", type=Path, required=True, help="folder with packages/ and the base; runs go there"
    )
    parser.add_argument("--into", type=Path, default=COMMITTED, help="folder of the adapter")
    arguments = parser.parse_args()
    work: Path = arguments.work
    examples, sources = build_dataset(DatasetConfig(), work / "packages")
    texts_sha256 = write_dataset(examples, work / "texts.jsonl")
    print(f"==> {len(examples)} examples: {json.dumps(sources)}", flush=True)
    command = ["git", "rev-parse", "HEAD"]
    commit = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603
    base, output = work / BASE_VERSION, work / "runs" / VERSION
    config = small_sft(base, work / "texts.jsonl", texts_sha256, output, commit)
    started = time.monotonic()
    run_stage(StageRun("small-sft", sft.run, config), work / "runs", _say)
    manifest = publish_adapter(output, arguments.into, base, sources, time.monotonic() - started)
    for sample in manifest.report["samples"]:
        print(f"\n> {sample['question']}\n{sample['answer']}")


def _say(progress: Progress) -> None:
    figures = "  ".join(f"{name} {value:.4g}" for name, value in progress.metrics.items())
    print(f"==> step {progress.step} of {progress.total_steps}  {figures}", flush=True)


if __name__ == "__main__":
    main()
