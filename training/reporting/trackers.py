"""Runs of wandb and MLflow, with the same content.

A tracker receives the config, the hashes of the inputs, the metrics of each step and the end
figures. It never receives prompts, answers or rows: texts in the config are left out, and what
wandb would collect by itself (console, source code, command line, machine, package list) is turned
off.

Sources: wandb 0.31 (`wandb.init`, `wandb.Settings`; `wandb sync` joins offline runs of one id) and
MLflow 3.17 (`MlflowClient`).
"""

from __future__ import annotations

import logging
import os
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from wandb import Run

    from training.runtime.context import Progress

PROJECT = (
    "thumbwheel"  # project of wandb and experiment of MLflow, unless the environment names one
)
MODE, OFFLINE, ONLINE = "WANDB_MODE", "offline", "online"
URI = "MLFLOW_TRACKING_URI"
END = "end/"  # prefix of end figures, which may be those of an earlier step than the last
UPLOAD_SECONDS = 30.0  # for the rest at the end; wandb's files keep what was not uploaded
MOST_METRICS, MOST_PARAMS = 1000, 100  # of one call of MLflow
LONGEST_PARAM = 6000  # characters, limit of MLflow


class End(StrEnum):
    """End of a stage as the trackers see it."""

    FINISHED = "finished"
    STOPPED = "stopped"
    FAILED = "failed"


@dataclass(frozen=True)
class TrackedConfig:
    """Identity of a tracked run.

    Attributes:
        kind: kind of the stage, such as sft.
        fields: config fields by full name, and the hashes of the inputs.
    """

    name: str
    kind: str
    fields: Mapping[str, Any]


class Tracker(Protocol):
    """One tracked run at a time, opened and closed. Methods raise what the package raises."""

    def open(self, config: TrackedConfig, run: str) -> str:
        """Begin a run, or continue the run of this id; return the id."""

    def log(self, steps: Sequence[Progress]) -> None:
        """Record the metrics of steps."""

    def close(self, end: End, figures: Mapping[str, float], notes: Mapping[str, str]) -> None:
        """Record end figures and notes, and end the run."""


class WandbTracker:
    """Runs of wandb: offline in a folder, or on the server that WANDB_* name."""

    def __init__(self, directory: Path) -> None:
        # Read when wandb is imported. With reports, also offline runs look up a host.
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        self._directory = Path(os.environ.get("WANDB_DIR") or directory)
        self._run: Run | None = None

    def open(self, config: TrackedConfig, run: str) -> str:
        import wandb

        mode: Any = os.environ.get(MODE) or OFFLINE
        # Without a key wandb would ask for one on the terminal, below the progress.
        if mode == ONLINE and not wandb.login(prompt=False, verify=False):
            raise PermissionError(f"{MODE}={ONLINE} needs WANDB_API_KEY or `wandb login`")
        self._directory.mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or PROJECT,
            name=config.name,
            job_type=config.kind,
            id=run or secrets.token_hex(4),
            resume="allow",
            mode=mode,
            dir=str(self._directory),
            config=dict(config.fields),
            reinit="create_new",
            settings=wandb.Settings(
                silent=True,
                console="off",
                save_code=False,
                disable_git=True,
                finish_timeout=UPLOAD_SECONDS,
                x_disable_meta=True,
                x_disable_stats=True,
                x_disable_machine_info=True,
                x_save_requirements=False,
            ),
        )
        return str(self._run.id)

    def log(self, steps: Sequence[Progress]) -> None:
        if self._run is not None:
            for progress in steps:
                self._run.log(dict(progress.metrics), step=progress.step)

    def close(self, end: End, figures: Mapping[str, float], notes: Mapping[str, str]) -> None:
        if self._run is not None:
            ends = {f"{END}{name}": value for name, value in figures.items()}
            self._run.summary.update({**ends, **notes, "state": str(end)})
            self._run.finish(exit_code=0 if end is End.FINISHED else 1)
            self._run = None


class MlflowTracker:
    """Runs of MLflow: in a database of a folder, or on the server of MLFLOW_TRACKING_URI."""

    STATUS: Mapping[End, str] = {
        End.FINISHED: "FINISHED",
        End.STOPPED: "KILLED",
        End.FAILED: "FAILED",
    }

    def __init__(self, directory: Path) -> None:
        # Read when mlflow is imported, which would report its use to its makers.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        self._directory = directory
        self._run = ""
        self._client: MlflowClient | None = None

    def open(self, config: TrackedConfig, run: str) -> str:
        from mlflow import MlflowClient
        from mlflow.entities import Param

        # Two lines about the tables of a new database.
        for name in ("mlflow.store.db.utils", "alembic"):
            logging.getLogger(name).setLevel(logging.WARNING)
        uri = os.environ.get(URI)
        if not uri:
            self._directory.mkdir(parents=True, exist_ok=True)
        client = MlflowClient(uri or f"sqlite:///{self._directory}/mlflow.db")
        self._client = client
        if run:
            client.update_run(run, status="RUNNING")
            self._run = run
            return run
        experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME") or PROJECT
        found = client.get_experiment_by_name(experiment)
        identity = (
            found.experiment_id
            if found
            else client.create_experiment(
                experiment, artifact_location=None if uri else str(self._directory / "artifacts")
            )
        )
        created = client.create_run(identity, run_name=config.name, tags={"stage": config.kind})
        self._run = str(created.info.run_id)
        params = [
            Param(name, str(value)[:LONGEST_PARAM])
            for name, value in config.fields.items()
            if str(value)
        ]
        for begin in range(0, len(params), MOST_PARAMS):
            client.log_batch(self._run, params=params[begin : begin + MOST_PARAMS])
        return self._run

    def log(self, steps: Sequence[Progress]) -> None:
        values = [(name, v, s.step) for s in steps for name, v in s.metrics.items()]
        self._log_values(values)

    def close(self, end: End, figures: Mapping[str, float], notes: Mapping[str, str]) -> None:
        if self._client is not None:
            self._log_values([(f"{END}{name}", value, 0) for name, value in figures.items()])
            for name, text in notes.items():
                self._client.set_tag(self._run, name, text)
            self._client.set_terminated(self._run, self.STATUS[end])
            self._client = None

    def _log_values(self, values: Sequence[tuple[str, float, int]]) -> None:
        from mlflow.entities import Metric

        now = round(time.time() * 1000)  # milliseconds
        metrics = [Metric(name, value, now, step) for name, value, step in values]
        for begin in range(0, len(metrics), MOST_METRICS):
            if self._client is not None:
                self._client.log_batch(self._run, metrics=metrics[begin : begin + MOST_METRICS])


TRACKERS: Mapping[str, Callable[[Path], Tracker]] = {
    "wandb": WandbTracker,
    "mlflow": MlflowTracker,
}
