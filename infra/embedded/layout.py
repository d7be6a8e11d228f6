"""Layout of an embedded run: folders, ports on loopback and the settings of each service."""

import contextlib
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from infra.supervision.child import Program
from infra.supervision.ports import HOST, distinct_free_ports, free_port, is_free
from infra.supervision.secret_file import read_or_create
from infra.supervision.supervisor import LOGS
from training.errors import DetailedError

ROOT = Path(__file__).resolve().parents[2]
PUBLIC_PORTS = {"http": 8080, "gateway": 50051}
INNER_PORTS = {
    "guardrail": 50052,
    "enhancer": 50053,
    "session": 50054,
    "generator": 50055,
    "feedback": 50056,
    "predictor": 8000,
}
# Offset of the /metrics port of a gRPC service from its gRPC port.
METRICS_OFFSET = 1000
# A longer context slows a 270 M model on two cores without a gain in quality.
MAX_CONTEXT_TOKENS = 2048
# `make up` starts the programs in this order.
START_ORDER = ("predictor", "guardrail", "enhancer", "feedback", "session", "generator", "gateway")


class PortTakenError(DetailedError):
    """A public port is in use."""

    reason = "IN_USE"


@dataclass(frozen=True)
class Layout:
    """State folder and ports of an embedded run; `ports` names every listener."""

    state: Path
    ports: Mapping[str, int]

    @property
    def models(self) -> Path:
        return self.state / "models"

    @property
    def objects(self) -> Path:
        return self.state / "objects"

    @property
    def loop(self) -> Path:
        return self.state / "loop"

    @property
    def predictor(self) -> Path:
        return self.state / "predictor"

    @property
    def has_graphs(self) -> bool:
        """Return True if the model server has converted a model for this processor before."""
        return any(
            not graph.name.startswith("unfinished-")
            for graph in (self.predictor / "graphs").glob("*")
        )

    @property
    def logs(self) -> Path:
        return self.state / LOGS

    def target(self, service: str) -> str:
        """Return host:port of a service's gRPC server.

        With two replicas, return a gRPC target with both addresses.
        """
        first = f"{HOST}:{self.ports[service]}"
        second = self.ports.get(f"{service}_2")
        return f"ipv4:{first},{HOST}:{second}" if second else first

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.ports['http']}"

    @property
    def page_url(self) -> str:
        """Return the URL of the page with the owner's key after the '#'.

        Browsers do not send that part to any server.
        """
        with contextlib.suppress(FileNotFoundError):
            return f"{self.url}/#key={(self.state / 'owner.key').read_text().strip()}"
        return self.url

    def prepare(self) -> None:
        """Create the folders of the run."""
        for folder in (
            self.models,
            self.objects,
            self.loop,
            self.logs,
            self.state / "feedback",
            self.state / "generator",
        ):
            folder.mkdir(parents=True, exist_ok=True)

    def principal_key(self) -> str:
        """Return the key of the hash of user ids in events.

        The key is created once and is readable by its owner only.
        """
        return read_or_create(self.state / "principal.key")

    def master_key(self) -> str:
        """Return the key that wraps the data keys of sealed texts.

        The key is created once and is readable by its owner only. Without the key the texts are
        lost.
        """
        return read_or_create(self.state / "master.key")


def choose_ports(http_port: int, grpc_port: int) -> dict[str, int]:
    """Return the usual ports. An internal port that is in use is replaced by a free port.

    Raises:
        PortTakenError: a public port is in use; names the port and its variable.
    """
    if not http_port and not grpc_port:
        # Next to another run: its usual ports must stay free while its services restart.
        return free_ports()
    chosen = public_ports(http_port, grpc_port)
    wanted = {
        **INNER_PORTS,
        **{f"{name}_metrics": port + METRICS_OFFSET for name, port in INNER_PORTS.items()},
    }
    wanted["gateway_metrics"] = PUBLIC_PORTS["gateway"] + METRICS_OFFSET
    for name, port in wanted.items():
        chosen[name] = port if is_free(port) else free_port()
    return chosen


def public_ports(http_port: int, grpc_port: int) -> dict[str, int]:
    """Return the public ports; 0 picks a free port.

    Raises:
        PortTakenError: a port is in use; names the port and its variable.
    """
    check_free(http_port, grpc_port)
    return {"http": http_port or free_port(), "gateway": grpc_port or free_port()}


def check_free(http_port: int, grpc_port: int) -> None:
    """Check that public ports are free.

    Raises:
        PortTakenError: a port is in use.
    """
    for port, variable in ((http_port, "PORT"), (grpc_port, "GRPC_PORT")):
        if port and not is_free(port):
            raise PortTakenError(
                f"port {port} is in use; choose another one: {variable}={port + 10}", field=variable
            )


def free_ports() -> dict[str, int]:
    """Return free ports for all listeners, for tests next to other runs."""
    names = [
        *PUBLIC_PORTS,
        *INNER_PORTS,
        *(f"{name}_metrics" for name in (*INNER_PORTS, "gateway")),
    ]
    return dict(zip(names, distinct_free_ports(len(names)), strict=True))


def context_tokens(model: Path) -> int:
    """Return the limit of tokens per turn: the context length of the model, bounded for CPUs."""
    config = json.loads((model / "config.json").read_text())
    return min(int(config["max_position_embeddings"]), MAX_CONTEXT_TOKENS)


def programs(layout: Layout, model: Path) -> list[Program]:
    """Return the seven programs with their settings, in the order of their start.

    `model` serves users until a rollout selects another version.
    """
    settings = service_settings(layout, model)
    return [program(name, settings[name], name) for name in START_ORDER]


def program(service: str, settings: Mapping[str, object], name: str) -> Program:
    """Return a service with its settings as environment variables."""
    environment = {
        f"TW_{service.upper()}_{key.upper()}": str(value) for key, value in settings.items()
    }
    port = int(str(settings.get("http_port") or settings["port"]))
    command = (sys.executable, "-m", f"services.{service}")
    return Program(name, command, environment, port, stops_first=service == "gateway")


def service_settings(layout: Layout, model: Path) -> dict[str, dict[str, object]]:
    """Return the settings by service, without the prefix of their names."""
    key, context = layout.principal_key(), context_tokens(model)
    reply = min(512, context // 4)
    state = layout.state
    return {
        "predictor": {
            "port": layout.ports["predictor"],
            "cache_directory": layout.predictor,
            "kv_blocks": 256,
        },
        "guardrail": _grpc(layout, "guardrail"),
        "enhancer": _grpc(layout, "enhancer"),
        "feedback": {
            **_grpc(layout, "feedback"),
            "principal_key": key,
            "master_key": layout.master_key(),
            "spool_directory": state / "feedback" / "spool",
            "object_directory": layout.objects,
            "database_url": f"sqlite:///{state / 'feedback' / 'ledger.db'}",
        },
        "session": {
            **_grpc(layout, "session"),
            "principal_key": key,
            "database_url": f"sqlite:///{state / 'sessions.db'}",
            "tokenizer_file": model / "tokenizer.json",
            "context_tokens": context,
            "reply_tokens": reply,
            "feedback_target": layout.target("feedback"),
        },
        "generator": {
            **_grpc(layout, "generator"),
            "predictor_url": f"http://{layout.target('predictor')}",
            "rollout_file": state / "generator" / "rollout.json",
            "stable_directory": model,
            "reply_tokens": reply,
        },
        "gateway": {
            **_grpc(layout, "gateway"),
            "http_port": layout.ports["http"],
            "principal_key": key,
            **{
                f"{peer}_target": layout.target(peer) for peer in INNER_PORTS if peer != "predictor"
            },
            "database_url": f"sqlite+aiosqlite:///{state / 'keys.db'}",
            "owner_key_file": state / "owner.key",
            "loop_directory": layout.loop,
            "page_directory": ROOT / "services" / "web" / "dist",
        },
    }


def _grpc(layout: Layout, service: str) -> dict[str, object]:
    return {
        "host": HOST,
        "port": layout.ports[service],
        "metrics_port": layout.ports[f"{service}_metrics"],
    }
