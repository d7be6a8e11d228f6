"""The generator with its real wiring on a real port, in front of a fake model server."""

import asyncio
import json
from argparse import ArgumentParser
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.duration_pb2 import Duration
from thumbwheel.chat.v1 import chat_pb2
from thumbwheel.generator.v1 import generator_pb2, generator_pb2_grpc

from services.chassis.channel import open_channel
from services.chassis.errors import ServiceError, from_rpc
from services.chassis.server import serving
from services.generator.__main__ import run_command, wiring
from services.generator.commands import add_commands
from services.generator.settings import GeneratorSettings


@dataclass(frozen=True)
class Stubs:
    generator: Any
    rollout: Any
    port: int

    async def generate(
        self, text: str = "hello", user_key: str = "acme/ada", **fields: Any
    ) -> list[Any]:
        """Return all events of one generation."""
        return [
            event
            async for event in self.generator.Generate(ask(text, user_key, **fields), timeout=20)
        ]

    async def state(self) -> Any:
        return await self.rollout.GetRollout(generator_pb2.GetRolloutRequest(), timeout=5)

    async def start(
        self, version: str, directory: Path, share: float = 0.5, lease_seconds: int = 60
    ) -> None:
        request = generator_pb2.StartCanaryRequest(
            version=version,
            directory=str(directory),
            share=share,
            lease=Duration(seconds=lease_seconds),
        )
        await self.rollout.StartCanary(request, timeout=20)

    async def version_for(self, user_key: str) -> str:
        """Return the version that answers this user."""
        events = await self.generate(user_key=user_key)
        return str(events[0].selected.model_version)

    async def promote(self, version: str) -> None:
        await self.rollout.PromoteCanary(
            generator_pb2.PromoteCanaryRequest(version=version, reason="better"), timeout=5
        )

    async def roll_back(self, version: str) -> None:
        request = generator_pb2.RollBackCanaryRequest(version=version, reason="worse")
        await self.rollout.RollBackCanary(request, timeout=5)


async def error_of(stubs: Stubs, **fields: Any) -> ServiceError:
    """Return the error of a generation."""
    try:
        await stubs.generate(**fields)
    except grpc.aio.AioRpcError as error:
        return from_rpc(error, "generator")
    raise AssertionError("the generation succeeded")


def ask(
    text: str = "hello", user_key: str = "acme/ada", **fields: Any
) -> generator_pb2.GenerateRequest:
    messages = [chat_pb2.HistoryMessage(role=chat_pb2.ROLE_USER, text=text)]
    return generator_pb2.GenerateRequest(**({"user_key": user_key, "messages": messages} | fields))


def text_of(events: list[Any]) -> str:
    return "".join(event.text_delta for event in events)


def model_directory(root: Path, version: str) -> Path:
    directory = root / "models" / version
    directory.mkdir(parents=True)
    (directory / "manifest.json").write_text(
        json.dumps({"format": 1, "kind": "model", "version": version})
    )
    return directory


def generator_settings(root: Path, predictor_port: int, **changes: Any) -> GeneratorSettings:
    stable = root / "models" / "v1"
    if not stable.exists():
        model_directory(root, "v1")
    values: dict[str, Any] = {
        "port": 0,
        "metrics_port": 0,
        "drain_seconds": 0,
        "lame_duck_seconds": 0,
        "rollout_file": root / "state" / "rollout.json",
        "stable_directory": stable,
        "reconcile_seconds": 0.05,
        "poll_seconds": 0.05,
        "unload_grace_seconds": 0,
        "connect_seconds": 1.0,
        "watch_share": 0,
    }
    if "serving" not in changes:
        values["predictor_url"] = f"http://127.0.0.1:{predictor_port}"
    return GeneratorSettings.model_validate(values | changes)


@asynccontextmanager
async def generator_service(
    root: Path, predictor_port: int, **changes: Any
) -> AsyncIterator[Stubs]:
    """Run the service and yield its stubs."""
    settings = generator_settings(root, predictor_port, **changes)
    async with (
        wiring(settings) as registrations,
        serving(settings, registrations) as port,
        open_channel(f"127.0.0.1:{port}") as channel,
    ):
        yield stubs_of(channel, port)


def stubs_of(channel: Any, port: int) -> Stubs:
    """Return the stubs of both services on a channel."""
    generator, rollout = (
        generator_pb2_grpc.GeneratorServiceStub,
        generator_pb2_grpc.RolloutServiceStub,
    )
    return Stubs(generator(channel), rollout(channel), port)


async def until_ready(stubs: Stubs, version: str, role: str = "stable") -> None:
    """Wait until the rollout shows this version as ready."""
    async with asyncio.timeout(10):
        while True:
            served = getattr(await stubs.state(), role)
            if (served.version, served.state) == (version, generator_pb2.VERSION_STATE_READY):
                return
            await asyncio.sleep(0.02)


async def operate(settings: GeneratorSettings, *words: str) -> int:
    """Run a command as a separate process would: only the store is shared with the service."""
    parser = ArgumentParser()
    add_commands(parser)
    return await run_command(parser.parse_args(words), settings)
