"""Layout of an embedded run: folders, ports on loopback and the settings of each service."""

import contextlib
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from infra.machine.servers.vllm import STOP_SECONDS, uses_gpu
from infra.run.embedded.context_window import (
    cache_gigabytes,
    context_tokens,
    gpu_bytes,
    reply_tokens,
)
from infra.run.supervision.child import Program
from infra.run.supervision.ports import HOST, distinct_free_ports, free_port, is_free, reserve
from infra.run.supervision.secret_file import read_or_create, restrict_folder
from infra.run.supervision.supervisor import LOGS
from infra.service_table import HTTP_PORT, Service, service_table
from services.chassis.identity_keys import create_key_pair
from training.errors import DetailedError
from training.service_identity import FOLDER, OPERATOR, TRAINING

ROOT = Path(__file__).resolve().parents[3]
# The start of vLLM takes minutes on a busy machine, and on a GPU it compiles a large model.
VLLM_LOAD_SECONDS = 1800
VLLM_DRAIN_SECONDS = 30
# Settings by service for `--without-quotas`: systems whose few keys represent many users.
UNLIMITED_QUOTAS: Mapping[str, Mapping[str, int]] = {
    "gateway": {
        "max_turns_per_user": 0,
        "max_turns_per_tenant": 0,
        "user_requests_per_minute": 0,
        "tenant_requests_per_minute": 0,
        "user_tokens_per_day": 0,
        "tenant_tokens_per_day": 0,
        "user_feedback_per_minute": 0,
        "tenant_feedback_per_minute": 0,
        "max_readers_per_user": 0,
        "max_readers_per_tenant": 0,
        "user_calls_per_minute": 0,
        "tenant_calls_per_minute": 0,
        "user_erasures_per_hour": 0,
        "tenant_erasures_per_hour": 0,
    },
    "session": {"max_conversations_per_user": 0, "max_conversations_per_tenant": 0},
}


MAX_PORT = 65_535
VLLM = "vllm"  # name of the program, its log and its folder


class PublicPortError(DetailedError):
    """A public port is in use or out of range; `field` is its variable."""

    reason = "IN_USE"


@dataclass(frozen=True)
class Layout:
    """State folder, ports and model server of an embedded run.

    Args:
        ports: port of every listener.
        vllm_python: interpreter of the vLLM that serves the models; None: the predictor.
        without_quotas: no quotas, for load and attacks; otherwise those of the services' settings.
    """

    state: Path
    ports: Mapping[str, int]
    vllm_python: Path | None = None
    without_quotas: bool = False

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
        """Create the folders of the run, and withdraw access of other users to the state."""
        restrict_folder(self.state, self.models)
        databases = [
            (self.state / service.database.file_path).parent
            for service in service_table().grpc
            if service.database and service.database.file
        ]
        for folder in (
            self.models,
            self.objects,
            self.loop,
            self.logs,
            self.state / "generator",
            *databases,
        ):
            folder.mkdir(parents=True, exist_ok=True)

    def key(self, name: str) -> str:
        """Return a key of the services; the key is created once, readable by its owner only.

        Args:
            name: principal-key, the key of the hash of user ids in events; master-key, which wraps
                the data keys of sealed texts, so that they are lost without the master key; or
                model-server-key, the key of the calls to the model server.
        """
        return read_or_create(self.state / f"{name.removesuffix('-key')}.key")

    def identity_key(self, caller: str) -> Path:
        """Return the private key of a caller; the key pair is created once."""
        file = self.state / FOLDER / f"{caller}.key"
        if not file.exists():
            create_key_pair(caller, file, self.state / FOLDER / "public")
        return file

    def identity_keys(self) -> Path:
        """Return the folder with the public keys of all callers."""
        table = service_table()
        signing = [service.name for service in table.grpc if table.signs(service.name)]
        for caller in (*signing, TRAINING, OPERATOR):
            self.identity_key(caller)
        return self.state / FOLDER / "public"


def usual_public_ports() -> dict[str, int]:
    """Return the ports of the public HTTP and gRPC endpoints."""
    return {"http": HTTP_PORT, "gateway": service_table()["gateway"].port}


def choose_ports(http_port: int, grpc_port: int) -> dict[str, int]:
    """Return the usual ports. An internal port in use is replaced by a free port.

    Raises:
        PublicPortError: a public port is in use; names the port and its variable.
    """
    if not http_port and not grpc_port:
        # Next to another run: its usual ports must stay free while its services restart.
        return free_ports()
    chosen = public_ports(http_port, grpc_port)
    for name, port in usual_ports().items():
        if name not in chosen:
            chosen[name] = port if reserve(port) else free_port()
    return chosen


def usual_ports() -> dict[str, int]:
    """Return the usual ports of all listeners."""
    table = service_table()
    return {
        **usual_public_ports(),
        **{name: service.port for name, service in table.services.items()},
        **{f"{name}_metrics": service.metrics_port for name, service in table.services.items()},
    }


def public_ports(http_port: int, grpc_port: int) -> dict[str, int]:
    """Return the public ports; 0 picks a free port.

    Raises:
        PublicPortError: a port is in use; names the port and its variable.
    """
    check_free(http_port, grpc_port)
    return {"http": http_port or free_port(), "gateway": grpc_port or free_port()}


def check_free(http_port: int, grpc_port: int) -> None:
    """Check the range of public ports, and whether they are free.

    Raises:
        PublicPortError: a port is in use, or outside 0 to 65535.
    """
    for port, variable in ((http_port, "PORT"), (grpc_port, "GRPC_PORT")):
        if not 0 <= port <= MAX_PORT:
            limit = f"1 to {MAX_PORT}, or 0 for a free port"
            raise PublicPortError(
                f"{variable}={port} must be {limit}",
                field=variable,
                reason="OUT_OF_RANGE",
                limit=limit,
            )
        if port and not is_free(port):
            raise PublicPortError(
                f"port {port} is in use; choose another one: {variable}={port + 10}", field=variable
            )


def free_ports() -> dict[str, int]:
    """Return free ports for all listeners, for tests next to other runs."""
    names = list(usual_ports())
    return dict(zip(names, distinct_free_ports(len(names)), strict=True))


def programs(layout: Layout, model: Path | None) -> list[Program]:
    """Return the programs of all services with their settings, callees before their callers.

    Args:
        model: model that serves users until a rollout selects another version; None: an external
            model serves them.
    """
    settings = service_settings(layout, model)
    found = []
    for service in service_table().start_order:
        if service.grpc:
            found.append(program(service.name, settings[service.name], service.name))
        else:
            found += model_server(layout, settings[service.name], model)
    return found


def context_window(layout: Layout, model: Path) -> int:
    """Return the tokens of prompt and answer together."""
    on_gpu = layout.vllm_python is not None and uses_gpu()
    return context_tokens(model, gpu_bytes() if on_gpu else 0.0)


def model_server(
    layout: Layout, predictor: Mapping[str, object], model: Path | None
) -> list[Program]:
    """Return the predictor, or the vLLM server in its place, at the same ports with the same key.

    Args:
        predictor: settings of the predictor.
        model: first stable version; None: an external model, which needs no server.
    """
    if model is None:
        return []
    if layout.vllm_python is None:
        return [program("predictor", predictor, "predictor")]
    window = context_window(layout, model)
    settings = {
        **{name: predictor[name] for name in ("host", "port", "metrics_port", "model_server_key")},
        "python": layout.vllm_python,
        "folder": layout.state / VLLM,
        "max_model_len": window,
        "kv_gigabytes": cache_gigabytes(model, window),
        "enforce_eager": not uses_gpu(),
        "load_seconds": VLLM_LOAD_SECONDS,
        "drain_seconds": VLLM_DRAIN_SECONDS,
    }
    environment = {f"TW_VLLM_SERVER_{key.upper()}": str(value) for key, value in settings.items()}
    return [
        Program(
            VLLM,
            (sys.executable, "-m", "infra.run.vllm_server"),
            environment,
            layout.ports["predictor"],
            stop_seconds=VLLM_DRAIN_SECONDS + STOP_SECONDS + 10,
        )
    ]


def program(service: str, settings: Mapping[str, object], name: str) -> Program:
    """Return a service with its settings as environment variables."""
    environment = {
        f"TW_{service.upper()}_{key.upper()}": str(value) for key, value in settings.items()
    }
    port = int(str(settings.get("http_port") or settings["port"]))
    command = (sys.executable, "-m", f"services.{service}")
    return Program(name, command, environment, port, stops_first=service == "gateway")


def service_settings(layout: Layout, model: Path | None) -> dict[str, dict[str, object]]:
    """Return the settings by service, without the prefix of their names.

    Args:
        model: first stable version; None: an external model answers.
    """
    own = _own_settings(layout, model)
    settings = {
        name: {**_table_settings(layout, service), **own.get(name, {})}
        for name, service in service_table().services.items()
    }
    if model is None:
        del settings["generator"]["predictor_url"]
    return settings


def _model_settings(layout: Layout, model: Path) -> dict[str, dict[str, object]]:
    """Return the settings of session and generator for a model of the installation."""
    context = context_window(layout, model)
    reply = reply_tokens(context)
    load = {} if layout.vllm_python is None else {"load_seconds": VLLM_LOAD_SECONDS}
    return {
        "session": {
            "tokenizer_file": model / "tokenizer.json",
            "context_tokens": context,
            "reply_tokens": reply,
        },
        "generator": {"stable_directory": model, "reply_tokens": reply, **load},
        "gateway": {"quota_reply_tokens": reply},
    }


def _external_settings() -> dict[str, dict[str, object]]:
    """Return the settings of session and generator for an external model.

    Context window and limits of answers are those of the environment, or the defaults.
    """
    counts = {} if "TW_SESSION_TOKENIZER_FILE" in os.environ else {"count_bytes": True}
    return {"session": {**counts}, "generator": {"serving": "external"}, "gateway": {}}


def _own_settings(layout: Layout, model: Path | None) -> dict[str, dict[str, object]]:
    """Return the settings that only one service has."""
    chosen = _external_settings() if model is None else _model_settings(layout, model)
    quotas = UNLIMITED_QUOTAS if layout.without_quotas else {"gateway": {}, "session": {}}
    return {
        "predictor": {"cache_directory": layout.predictor},
        "session": {**chosen["session"], **quotas["session"]},
        "generator": {
            "rollout_file": layout.state / "generator" / "rollout.json",
            **chosen["generator"],
        },
        "gateway": {
            "owner_key_file": layout.state / "owner.key",
            "loop_directory": layout.loop,
            "page_directory": ROOT / "services" / "web" / "dist",
            **chosen["gateway"],
            **quotas["gateway"],
        },
    }


def _table_settings(layout: Layout, service: Service) -> dict[str, object]:
    """Return the settings that follow from the row of a service."""
    settings: dict[str, object] = {
        "host": HOST,
        "port": layout.ports[service.name],
        "metrics_port": layout.ports[f"{service.name}_metrics"],
    }
    if service.http:
        settings["http_port"] = layout.ports["http"]
    elif service.grpc:
        settings["identity_keys"] = layout.identity_keys()
    if service_table().signs(service.name):
        settings["identity_key"] = layout.identity_key(service.name)
    for callee in service.calls:
        if service_table()[callee].grpc:
            settings[f"{callee}_target"] = layout.target(callee)
        else:
            settings[f"{callee}_url"] = f"http://{layout.target(callee)}"
    for key in service.keys:
        settings[key.replace("-", "_")] = layout.key(key)
    if service.database and service.database.file:
        settings["database_url"] = service.database.file_url(layout.state)
    if service.spool:
        settings["spool_directory"] = layout.state / service.name / "spool"
    if service.objects:
        settings["object_directory"] = layout.objects
    return settings
