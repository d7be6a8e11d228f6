"""Where everything of an embedded run is: folders under one state folder, ports on loopback, the
settings of each service.
"""

import contextlib
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from infra.supervision.child import Program
from infra.supervision.kept import kept
from infra.supervision.ports import HOST, distinct_free_ports, free_port, is_free
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
# /metrics of a gRPC service stands this far above its gRPC port.
METRICS_OFFSET = 1000
# A context longer than this makes a 270 M model on two cores slow to answer and no better.
MOST_CONTEXT_TOKENS = 2048
# `make up` starts them in this order.
START_ORDER = ("predictor", "guardrail", "enhancer", "feedback", "session", "generator", "gateway")


class PortTakenError(DetailedError):
    """A public port is in use."""

    reason = "IN_USE"


@dataclass(frozen=True)
class Layout:
    """One embedded run: `state` is its folder, `ports` name every listener."""

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
        """Whether the model server converted a model for this processor before."""
        return any(
            not graph.name.startswith("unfinished-")
            for graph in (self.predictor / "graphs").glob("*")
        )

    @property
    def logs(self) -> Path:
        return self.state / LOGS

    def target(self, service: str) -> str:
        """host:port of a service's gRPC door; of both where it has two replicas, in gRPC's own
        words.
        """
        first = f"{HOST}:{self.ports[service]}"
        second = self.ports.get(f"{service}_2")
        return f"ipv4:{first},{HOST}:{second}" if second else first

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.ports['http']}"

    @property
    def page_url(self) -> str:
        """The page with the owner's key behind the '#': browsers do not send that part to any
        server.
        """
        with contextlib.suppress(FileNotFoundError):
            return f"{self.url}/#key={(self.state / 'owner.key').read_text().strip()}"
        return self.url

    def prepare(self) -> None:
        """Make the folders."""
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
        """The key under which user ids are hashed in events; made once, readable by the owner
        alone.
        """
        return kept(self.state / "principal.key")

    def master_key(self) -> str:
        """The key that wraps what seals people's words; made once, readable by the owner alone.
        Lost, the words are lost too.
        """
        return kept(self.state / "master.key")


def choose_ports(http_port: int, grpc_port: int) -> dict[str, int]:
    """The usual ports; an inner one that is taken gives way to a free one, a public one is an
    error.

    Raises:
        PortTakenError: names the port and the variable that changes it.
    """
    if not http_port and not grpc_port:
        # beside another run: its usual ports must not be taken while one of its services restarts
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
    """The ports at the door; 0 picks a free one.

    Raises:
        PortTakenError: names the port and the variable that changes it.
    """
    check_free(http_port, grpc_port)
    return {"http": http_port or free_port(), "gateway": grpc_port or free_port()}


def check_free(http_port: int, grpc_port: int) -> None:
    """Raises: PortTakenError."""
    for port, variable in ((http_port, "PORT"), (grpc_port, "GRPC_PORT")):
        if port and not is_free(port):
            raise PortTakenError(
                f"port {port} is in use; choose another one: {variable}={port + 10}", field=variable
            )


def free_ports() -> dict[str, int]:
    """Nothing but free ports: for tests, beside whatever else runs."""
    names = [
        *PUBLIC_PORTS,
        *INNER_PORTS,
        *(f"{name}_metrics" for name in (*INNER_PORTS, "gateway")),
    ]
    return dict(zip(names, distinct_free_ports(len(names)), strict=True))


def context_tokens(model: Path) -> int:
    """What one turn may hold, in tokens: the model's own length, bounded for CPU."""
    config = json.loads((model / "config.json").read_text())
    return min(int(config["max_position_embeddings"]), MOST_CONTEXT_TOKENS)


def programs(layout: Layout, model: Path) -> list[Program]:
    """The seven programs with their settings, in the order of starting. `model` answers until a
    rollout says otherwise.
    """
    settings = service_settings(layout, model)
    return [program(name, settings[name], name) for name in START_ORDER]


def program(service: str, settings: Mapping[str, object], name: str) -> Program:
    """A service with its settings as its environment."""
    environment = {
        f"TW_{service.upper()}_{key.upper()}": str(value) for key, value in settings.items()
    }
    port = int(str(settings.get("http_port") or settings["port"]))
    command = (sys.executable, "-m", f"services.{service}")
    return Program(name, command, environment, port, stops_first=service == "gateway")


def service_settings(layout: Layout, model: Path) -> dict[str, dict[str, object]]:
    """Settings by service, without the prefix."""
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
