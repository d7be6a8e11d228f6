"""The attacked system, its users, and the bounds of every attack."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from infra.service_table import service_table
from services.chassis.service_identity import TokenSigner
from tests.journeys.client import Client, finish_of
from tests.journeys.stack import Stack
from training.service_identity import FOLDER

# Growth of the resident memory of one service during an attack. A pod of the chart has 512 MiB and
# a service of the embedded system uses 70 to 370 MiB at rest.
MAX_GROWTH_MIB = 128
# Deadline of a turn of the bystander, which a busy machine does not reach.
ANSWER_SECONDS = 60.0
SHORT = {"maxTokens": 4}
FINISHED = ("FINISH_REASON_STOP", "FINISH_REASON_LENGTH")

# Attacks by load run against a system without quotas, where the other limits must hold alone, and
# against one with quotas, as users run it.
BOTH_QUOTAS = pytest.mark.parametrize(
    "attacked_system",
    [
        pytest.param("stack", id="without quotas"),
        pytest.param("stack_with_quotas", id="with quotas", marks=pytest.mark.long),
    ],
    indirect=True,
)


@dataclass
class Attacked:
    """The system under attack.

    Args:
        attacker: a user with an ordinary key.
        bystander: another user of the same tenant, who must be answered during every attack.
        colleague: a third user of the same tenant.
        namesake: a user of another tenant, with the name of the attacker.
    """

    stack: Stack
    attacker: Client
    bystander: Client
    colleague: Client
    namesake: Client
    _processes: dict[str, tuple[int, float]] = field(default_factory=dict)

    @property
    def port(self) -> int:
        return self.stack.ports["http"]

    @property
    def grpc_port(self) -> int:
        return self.stack.ports["gateway"]

    def signer(self, caller: str) -> TokenSigner:
        """Return a signer with the private key of a service."""
        return TokenSigner(caller, self.stack.state / FOLDER / f"{caller}.key")

    def record(self) -> None:
        """Record process ids and memory of all services, before an attack."""
        self._processes = self._measured()

    def check(self) -> None:
        """Check that the attack did no harm: lives, memory, and an answer for the bystander."""
        self.check_answered()
        for service, (pid, mib) in self._measured().items():
            old_pid, old_mib = self._processes[service]
            assert pid == old_pid, f"{service} was restarted"
            assert mib - old_mib <= MAX_GROWTH_MIB, f"{service} grew from {old_mib} to {mib} MiB"

    def check_answered(self) -> None:
        """Ask as the bystander, and require an answer within the deadline."""
        end = time.monotonic() + ANSWER_SECONDS
        while not _is_answered(self.bystander):
            assert time.monotonic() < end, "the bystander gets no answer"
            time.sleep(0.1)

    def _measured(self) -> dict[str, tuple[int, float]]:
        pids = {name: self.stack.pid_of(name) for name in service_table().names}
        return {name: (pid, resident_mib(pid)) for name, pid in pids.items()}


def _is_answered(client: Client) -> bool:
    try:
        return finish_of(client.ask("hello", sampling=SHORT)) in FINISHED
    except (AssertionError, OSError):
        return False


def resident_mib(pid: int) -> float:
    """Return the resident memory of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def authorized(client: Client) -> Mapping[str, str]:
    """Return the headers of a request with the key of a client."""
    return {"authorization": f"Bearer {client.key}", "content-type": "application/json"}


def metadata_of(client: Client) -> tuple[tuple[str, str], ...]:
    """Return the metadata of a gRPC call with the key of a client."""
    return (("authorization", f"Bearer {client.key}"),)


def error_of(body: Any) -> str:
    """Return the code of an error over HTTP."""
    return str(body["error"]["code"])
