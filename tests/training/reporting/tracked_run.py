"""Track a stage with the real wandb and MLflow, stopped and resumed, and print what both stored.

Usage: python tracked_run.py FOLDER, with the packages of locks/tracking.txt on PYTHONPATH.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from wandb.proto import wandb_internal_pb2

from tests.training.stage_folder import StageFolder
from training.reporting.tracked_stages import tracked
from training.reporting.trackers import PROJECT
from training.reporting.tracking import check_installed, tracking_in

BLOCK, HEADER, PREFIX = 32_768, 7, 7  # bytes of the log format of LevelDB, after wandb's prefix
WHOLE, LAST = 1, 4  # kinds of a part of a record: all of it, its end
NAMES = ("wandb", "mlflow")


def records(path: Path) -> list[Any]:
    """Return the records of a .wandb file."""
    content, place, whole, found = path.read_bytes(), PREFIX, b"", list[Any]()
    while place + HEADER <= len(content):
        left = BLOCK - place % BLOCK
        if left < HEADER:
            place += left
            continue
        length, kind = int.from_bytes(content[place + 4 : place + 6], "little"), content[place + 6]
        whole += content[place + HEADER : place + HEADER + length]
        place += HEADER + length
        if kind in (WHOLE, LAST):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(whole)
            found.append(record)
            whole = b""
    return found


def of_wandb(directory: Path) -> dict[str, Any]:
    """Return ids, config, steps and summary of all offline files."""
    paths = sorted(directory.glob("wandb/offline-run-*/*.wandb"))
    all_records = [record for path in paths for record in records(path)]
    runs = [record.run for record in all_records if record.HasField("run")]
    steps = [
        (int(items["_step"]), items["loss"])
        for record in all_records
        if record.HasField("history")
        for items in [
            {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in record.history.item}
        ]
    ]
    summary = {
        item.key or "/".join(item.nested_key): json.loads(item.value_json)
        for record in all_records
        for item in record.summary.update
    }
    config = {u.key: json.loads(u.value_json) for u in runs[0].config.update}
    return {
        "ids": sorted({run.run_id for run in runs}),
        "files": len(paths),
        "config": config,
        "steps": steps,
        "summary": summary,
    }


def of_mlflow(directory: Path) -> dict[str, Any]:
    """Return ids, params, steps and end figures of all runs."""
    client = MlflowClient(f"sqlite:///{directory}/mlflow.db")
    experiment = client.get_experiment_by_name(PROJECT)
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    history = client.get_metric_history(runs[0].info.run_id, "loss")
    return {
        "ids": [run.info.run_id for run in runs],
        "status": runs[0].info.status,
        "config": runs[0].data.params,
        "steps": sorted((one.step, one.value) for one in history),
        "summary": runs[0].data.metrics,
    }


def main(root: Path) -> None:
    check_installed(NAMES)
    tracking, stage = tracking_in(root, NAMES), StageFolder(root)
    with tracked([stage.followed], tracking):
        stage.add(range(1, 5))
    with tracked([stage.followed], tracking):
        stage.add(range(3, 7))  # again from a checkpoint after step 2
        stage.finish()
    stored = {"wandb": of_wandb(tracking.directory), "mlflow": of_mlflow(tracking.directory)}
    os.environ |= {
        "MLFLOW_TRACKING_URI": "http://127.0.0.1:9",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
        "WANDB_MODE": "online",
        "WANDB_BASE_URL": "http://127.0.0.1:9",
    }
    unreachable = StageFolder(root, "unreachable")
    with tracked([unreachable.followed], tracking):
        unreachable.add(range(1, 3))
        unreachable.finish()
    print(json.dumps(stored))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
