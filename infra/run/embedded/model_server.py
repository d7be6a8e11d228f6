"""Choice of the model server of a machine without Kubernetes, for its start and for training.

Contains the options of the commands that start a system.
"""

from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Mapping, Sequence
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path

from infra.machine.servers.errors import ServerError
from infra.machine.servers.vllm import find_installed, serving_build
from training.serving.vllm_command import PYTHON_VARIABLE

# File of a state folder whose system is served by vLLM: the path of its interpreter.
PYTHON_FILE = "vllm-python"


class ModelServer(StrEnum):
    """Program that serves the versions."""

    PREDICTOR = "predictor"
    VLLM = "vllm"
    # The endpoint of TW_GENERATOR_EXTERNAL_MODELS; no program is started.
    EXTERNAL = "external"


TRAINABLE = (ModelServer.PREDICTOR, ModelServer.VLLM)


def add_server_option(parser: ArgumentParser, known: Sequence[ModelServer] = TRAINABLE) -> None:
    """Add `--server` to a command that starts a system.

    Args:
        known: permitted values.
    """

    def model_server(given: str) -> ModelServer:
        # `choices` would name the class for an unknown value, because argparse converts it first.
        if given not in known:
            raise ArgumentTypeError(f"{given!r} is not one of {', '.join(known)}")
        return ModelServer(given)

    external = ", or external, an endpoint in TW_GENERATOR_EXTERNAL_MODELS"
    parser.add_argument(
        "--server",
        type=model_server,
        metavar=f"{{{','.join(known)}}}",
        default=ModelServer.PREDICTOR,
        help="model server: predictor, for CPUs, or vllm, which must be installed"
        f"{external if ModelServer.EXTERNAL in known else ''} (default %(default)s)",
    )


def add_quota_option(parser: ArgumentParser) -> None:
    """Add `--without-quotas` to a command that starts a system."""
    parser.add_argument(
        "--without-quotas",
        action="store_true",
        help="set all quotas to 0, for tests of load and attacks, whose few keys are many users",
    )


def find_vllm(server: ModelServer) -> Path | None:
    """Return the interpreter of the installed vLLM, or None for another server.

    Raises:
        ServerError: the server is not installed; the text has the command that installs it.
    """
    if server is ModelServer.PREDICTOR and find_spec("openvino") is None:
        raise ServerError(
            "the packages of the predictor are not installed; "
            "run python3 infra/install/environment.py predictor",
            field="server",
            reason="MISSING",
        )
    return find_installed(serving_build()) if server is ModelServer.VLLM else None


def record_vllm(state: Path, python: Path | None) -> None:
    """Record the interpreter in the state folder, for `training_variables`."""
    file = state / PYTHON_FILE
    if python is None:
        file.unlink(missing_ok=True)
    else:
        file.write_text(f"{python}\n")


def training_variables(state: Path) -> Mapping[str, str]:
    """Return variables of training next to the system of a state folder.

    Rollouts by vLLM are then computed by the vLLM that serves users.
    """
    file = state / PYTHON_FILE
    return {PYTHON_VARIABLE: file.read_text().strip()} if file.exists() else {}
