"""Mutual TLS over real sockets: access, verification, and replaced certificates."""

import asyncio
import os
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from grpc_health.v1 import health_pb2, health_pb2_grpc
from pydantic import ValidationError
from thumbwheel.generator.v1 import generator_pb2, generator_pb2_grpc
from thumbwheel.guardrail.v1 import guardrail_pb2, guardrail_pb2_grpc

from infra.machine.certificates.authority import (
    Authority,
    CertificatePair,
    issue_certificates,
    tls_settings,
    write_pair,
)
from services.chassis import channel as channels
from services.chassis import mutual_tls
from services.chassis.channel import call_stream, call_unary, open_channel
from services.chassis.errors import PermissionDeniedError, UnavailableError
from services.chassis.identity import CallContext, Caller, bind_call
from services.chassis.mutual_tls import TlsFiles, TlsFilesError, require_peer
from services.chassis.server import Registration, serving
from services.chassis.settings import ServiceSettings
from tests.support.errors import refused
from tests.support.secret_volume import SecretVolume
from tests.support.service_process import served_port

ROOT = Path(__file__).resolve().parents[3]
GENERATOR, ROLLOUT = (
    "thumbwheel.generator.v1.GeneratorService",
    "thumbwheel.generator.v1.RolloutService",
)
CALLERS = {
    f"{GENERATOR}.Generate": frozenset({"gateway"}),
    f"{ROLLOUT}.PromoteCanary": frozenset({"operator"}),
}


class Generator(
    generator_pb2_grpc.GeneratorServiceServicer, generator_pb2_grpc.RolloutServiceServicer
):
    """Streams until `proceed` is set, and records the certificates of its callers."""

    def __init__(self) -> None:
        self.proceed = asyncio.Event()
        self.certificates: list[bytes] = []

    async def Generate(
        self, request: Any, context: Any
    ) -> AsyncIterator[generator_pb2.GenerateEvent]:
        self.certificates += context.auth_context()["x509_pem_cert"]
        yield generator_pb2.GenerateEvent(text_delta="begun")
        await self.proceed.wait()
        yield generator_pb2.GenerateEvent(text_delta="ended")

    async def PromoteCanary(
        self, request: Any, context: Any
    ) -> generator_pb2.PromoteCanaryResponse:
        return generator_pb2.PromoteCanaryResponse()

    async def RollBackCanary(self, request: Any, context: Any) -> Any:
        raise AssertionError("reached without a rule")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with the certificates of all services."""
    issue_certificates(tmp_path / "tls", ("gateway", "generator", "session", "operator"), 1)
    return tmp_path / "tls"


@pytest.fixture(autouse=True)
def _check_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mutual_tls, "CHECK_INTERVAL_SECONDS", 0.0)
    monkeypatch.setattr(channels, "CHECK_INTERVAL_SECONDS", 0.02)


@asynccontextmanager
async def generator(folder: Path, name: str = "generator") -> AsyncIterator[tuple[Generator, int]]:
    servicer = Generator()
    registrations = [
        Registration(
            GENERATOR, generator_pb2_grpc.add_GeneratorServiceServicer_to_server, servicer
        ),
        Registration(ROLLOUT, generator_pb2_grpc.add_RolloutServiceServicer_to_server, servicer),
    ]
    settings = ServiceSettings.model_validate(
        {"port": 0, "drain_seconds": 1, **tls_settings(folder, name)}
    )
    async with serving(settings, registrations, CALLERS) as port:
        yield servicer, port


def files(folder: Path, service: str) -> TlsFiles:
    return TlsFiles(*tls_settings(folder, service).values())


async def promote(port: int, tls: TlsFiles | None, peer: str = "generator") -> Any:
    """Call PromoteCanary on a new channel."""
    async with open_channel(f"127.0.0.1:{port}", peer=peer, tls=tls) as channel:
        stub = generator_pb2_grpc.RolloutServiceStub(channel)
        return await call_unary(
            "generator",
            stub.PromoteCanary,
            generator_pb2.PromoteCanaryRequest(version="one"),
            within_seconds=5,
        )


async def test_only_services_named_by_the_rule_are_served(folder: Path) -> None:
    async with generator(folder) as (_, port):
        await promote(port, files(folder, "operator"))
        for service in ("gateway", "session", "generator"):
            with pytest.raises(PermissionDeniedError) as caught:
                await promote(port, files(folder, service))
            assert caught.value.reason == "PEER_NOT_ALLOWED"


async def test_keys_in_the_encoding_of_cert_manager_are_accepted(folder: Path) -> None:
    """cert-manager writes EC keys as SEC 1 (`BEGIN EC PRIVATE KEY`)."""
    for service in ("generator", "operator"):
        file = folder / f"{service}.key"
        key = load_pem_private_key(file.read_bytes(), None)
        sec1 = key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
        assert sec1.startswith(b"-----BEGIN EC PRIVATE KEY-----")
        file.write_bytes(sec1)
    async with generator(folder) as (_, port):
        await promote(port, files(folder, "operator"))


class Certified:
    """Context of a call with a client certificate."""

    def __init__(self, service: str) -> None:
        self._service = service

    def auth_context(self) -> dict[str, list[bytes]]:
        return {"peer_spiffe_id": [f"spiffe://thumbwheel/{self._service}".encode()]}


@pytest.mark.parametrize(
    ("certified", "signer", "is_allowed"),
    [
        ("gateway", "gateway", True),
        ("gateway", "", True),
        ("gateway", "session", False),
        ("session", "gateway", False),
        ("operator", "operator", False),
    ],
)
def test_certificate_and_signature_must_name_the_same_allowed_service(
    certified: str, signer: str, is_allowed: bool
) -> None:
    callers = {f"{GENERATOR}.Generate": frozenset({"gateway", "session"})}
    expected = nullcontext() if is_allowed else pytest.raises(PermissionDeniedError)
    with expected:
        require_peer(
            callers, f"/{GENERATOR}/Generate", Certified(certified), secure=True, signer=signer
        )


async def test_method_without_a_rule_is_denied_with_and_without_tls(
    folder: Path,
) -> None:
    async def roll_back(port: int, tls: TlsFiles | None) -> str:
        async with open_channel(f"127.0.0.1:{port}", peer="generator", tls=tls) as channel:
            method = generator_pb2_grpc.RolloutServiceStub(channel).RollBackCanary
            with pytest.raises(PermissionDeniedError) as caught:
                await call_unary(
                    "generator", method, generator_pb2.RollBackCanaryRequest(), within_seconds=5
                )
            return caught.value.reason

    async with generator(folder) as (_, port):
        assert await roll_back(port, files(folder, "operator")) == "NO_RULE"
    add = generator_pb2_grpc.add_RolloutServiceServicer_to_server
    async with serving(
        ServiceSettings(port=0), [Registration(ROLLOUT, add, Generator())], CALLERS
    ) as port:
        assert await roll_back(port, None) == "NO_RULE"
        await promote(port, None)


async def test_plaintext_and_invalid_client_certificates_are_refused(
    folder: Path, tmp_path: Path
) -> None:
    foreign, old = tmp_path / "foreign", tmp_path / "old"
    issue_certificates(foreign, ("operator",), 1)
    write_pair(foreign, "authority", _authority(folder).pair)  # it believes us and is not believed
    shutil.copytree(folder, old)
    write_pair(old, "operator", _authority(folder).issue("operator", -0.01))
    async with generator(folder) as (_, port):
        for tls in (None, files(foreign, "operator"), files(old, "operator")):
            with pytest.raises(UnavailableError):
                await promote(port, tls)
        credentials = grpc.ssl_channel_credentials((folder / "authority.pem").read_bytes())
        options = [("grpc.ssl_target_name_override", "generator.thumbwheel")]
        async with grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials, options) as channel:
            stub = generator_pb2_grpc.RolloutServiceStub(channel)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.PromoteCanary(generator_pb2.PromoteCanaryRequest(), timeout=5)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        await promote(port, files(folder, "operator"))


async def test_client_refuses_invalid_server_certificates(folder: Path, tmp_path: Path) -> None:
    async with generator(folder, "session") as (_, port):
        with pytest.raises(UnavailableError):
            await promote(port, files(folder, "operator"))
        await promote(port, files(folder, "operator"), peer="session")
    foreign = tmp_path / "foreign"
    issue_certificates(foreign, ("generator",), 1)
    async with generator(foreign) as (_, port):
        with pytest.raises(UnavailableError):
            await promote(port, files(folder, "operator"))
    write_pair(folder, "generator", _authority(folder).issue("generator", -0.01))
    async with generator(folder) as (_, port):
        with pytest.raises(UnavailableError):
            await promote(port, files(folder, "operator"))


async def test_health_is_available_to_any_service_with_a_certificate(folder: Path) -> None:
    async with (
        generator(folder) as (_, port),
        open_channel(
            f"127.0.0.1:{port}", peer="generator", tls=files(folder, "session")
        ) as channel,
    ):
        request = health_pb2.HealthCheckRequest(service=GENERATOR)
        answer = await health_pb2_grpc.HealthStub(channel).Check(request, timeout=5)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_authority_is_rotated_without_a_dropped_stream(folder: Path) -> None:
    bind_call(CallContext(Caller("acme", "ada"), "request"))
    old, new = _authority(folder), Authority.create(1)
    async with (
        generator(folder) as (servicer, port),
        open_channel(
            f"127.0.0.1:{port}", peer="generator", tls=files(folder, "gateway")
        ) as channel,
    ):
        stub = generator_pb2_grpc.GeneratorServiceStub(channel)
        streams = [_generate(stub)]
        assert await anext(streams[0]) == "begun"

        # Trust both authorities, then replace all certificates, then remove the old authority.
        _trust(folder, old, new)
        streams.append(_generate(stub))
        assert await anext(streams[1]) == "begun"
        first = (folder / "gateway.pem").read_bytes()
        for service in ("generator", "gateway"):
            write_pair(folder, service, new.issue(service, 1))
        second = (folder / "gateway.pem").read_bytes()
        async with asyncio.timeout(5):
            while servicer.certificates[-1] != second:
                streams.append(_generate(stub))
                assert await anext(streams[-1]) == "begun"
        _trust(folder, new)
        streams.append(_generate(stub))
        assert await anext(streams[-1]) == "begun"

        # The certificate of the operator is of the old authority, so its refusal proves that the
        # new files are in use.
        with pytest.raises(UnavailableError):
            await promote(port, files(folder, "operator"))
        servicer.proceed.set()
        assert [[text async for text in stream] for stream in streams] == [["ended"]] * len(streams)
        assert servicer.certificates == [first] * (len(streams) - 2) + [second] * 2


def test_partially_replaced_files_are_ignored(folder: Path) -> None:
    tls = files(folder, "operator")
    before, pair = tls.pem_files(), _authority(folder).issue("operator", 1)
    (folder / "operator.key").write_bytes(pair.key)
    assert tls.pem_files() is before
    with refused(TlsFilesError, field=str(folder / "operator.pem"), reason="INVALID_TLS_FILES"):
        files(folder, "operator")
    (folder / "operator.pem").write_bytes(pair.certificate)
    assert tls.pem_files()[:2] == (pair.certificate, pair.key)
    (folder / "operator.pem").unlink()
    assert tls.pem_files()[:2] == (pair.certificate, pair.key)


def test_files_of_a_secret_volume_are_read_again(tmp_path: Path) -> None:
    authority = Authority.create(1)
    volume = SecretVolume(tmp_path / "volume", "operator", authority)
    tls = TlsFiles(*volume.files)
    before = tls.pem_files()
    volume.replace(authority)
    assert tls.pem_files() == tuple(file.read_bytes() for file in volume.files) != before


def test_tls_settings_are_required_together(folder: Path) -> None:
    assert ServiceSettings(port=0).tls_files() is None
    whole: dict[str, Any] = tls_settings(folder, "session")
    assert ServiceSettings(port=0, **whole).tls_files() is not None
    for missing in whole:
        with pytest.raises(ValidationError) as caught:
            ServiceSettings(port=0, **{**whole, missing: None})
        assert [(wrong["loc"], wrong["type"]) for wrong in caught.value.errors()] == [
            ((), "incomplete")
        ]


def test_certificates_are_renewed_before_they_expire(tmp_path: Path) -> None:
    assert issue_certificates(tmp_path, ("gateway", "session"), 1) == ["gateway", "session"]
    assert issue_certificates(tmp_path, ("gateway", "session"), 1) == []
    write_pair(tmp_path, "session", _authority(tmp_path).issue("session", 0.4))
    assert issue_certificates(tmp_path, ("gateway", "session"), 1) == ["session"]
    assert (tmp_path / "session.key").stat().st_mode & 0o077 == 0


async def test_service_process_enforces_rules_and_certificates(
    tmp_path: Path,
) -> None:
    issue_certificates(tmp_path, ("gateway", "guardrail", "session"), 1)
    async with _guardrail_process(tmp_path) as port:
        for service, allowed in (("gateway", True), ("session", False)):
            async with open_channel(
                f"127.0.0.1:{port}", peer="guardrail", tls=files(tmp_path, service)
            ) as channel:
                check = guardrail_pb2_grpc.GuardrailServiceStub(channel).CheckInput
                request = guardrail_pb2.CheckInputRequest(texts=["hello"])
                if allowed:
                    answer = await call_unary("guardrail", check, request, within_seconds=10)
                    assert answer.verdict.action == guardrail_pb2.ACTION_ALLOW
                else:
                    with pytest.raises(PermissionDeniedError):
                        await call_unary("guardrail", check, request, within_seconds=10)


@asynccontextmanager
async def _guardrail_process(folder: Path) -> AsyncIterator[int]:
    values = {"port": 0, **tls_settings(folder, "guardrail")}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TW_")}
    environment |= {f"TW_GUARDRAIL_{name.upper()}": str(value) for name, value in values.items()}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "services.guardrail",
        cwd=ROOT,
        env=environment,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield await served_port(process, 60)
    finally:
        process.kill()
        await process.communicate()


def _authority(folder: Path) -> Authority:
    """Return the authority stored in the folder."""
    return Authority(
        CertificatePair(
            (folder / "authority.pem").read_bytes(), (folder / "authority.key").read_bytes()
        )
    )


def _trust(folder: Path, *authorities: Authority) -> None:
    (folder / "authority.pem").write_bytes(
        b"".join(authority.pair.certificate for authority in authorities)
    )


async def _generate(stub: Any) -> AsyncIterator[str]:
    request = generator_pb2.GenerateRequest(user_key="acme/ada")
    async for event in call_stream("generator", stub.Generate, request, within_seconds=30):
        yield event.text_delta
