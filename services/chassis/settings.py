"""Settings of the services: one frozen class per service, read once from the environment.

The `extra="forbid"` of pydantic-settings ignores unknown environment variables. `load_settings`
refuses them, so that a misspelt variable stops the service instead of selecting the default. Errors
end the process with one line per setting, without values. This module does not need gRPC, which the
predictor does not install.
"""

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Self, TypeVar

from pydantic import AfterValidator, Field, SecretStr, ValidationError, model_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, SettingsConfigDict
from pydantic_settings import SettingsError as InvalidJsonError

if TYPE_CHECKING:
    from services.chassis.mutual_tls import TlsFiles
    from services.chassis.service_identity import TokenSigner, TokenVerifier

MIN_HEADER_KEY_CHARACTERS = 16
HEADER_KEY = re.compile(rf"([!-~]{{{MIN_HEADER_KEY_CHARACTERS},}})?")


def _check_header_key(key: SecretStr) -> SecretStr:
    # A secret from a file often ends with a newline, which the HTTP client refuses at each call.
    if not HEADER_KEY.fullmatch(key.get_secret_value()):
        raise PydanticCustomError(
            "header_key",
            "must have at least {min_length} characters, only visible ASCII without spaces and "
            "newlines",
            {"min_length": MIN_HEADER_KEY_CHARACTERS},
        )
    return key


# A secret that is sent in an HTTP header; may be empty.
HeaderKey = Annotated[SecretStr, AfterValidator(_check_header_key)]


class ServiceSettings(BaseSettings):
    """Settings that every gRPC service has.

    Subclasses set `env_prefix` (TW_<SERVICE>_) and add fields.
    """

    # By default a validation error quotes its input, which may be a secret.
    model_config = SettingsConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(ge=0, le=65535, description="gRPC port; 0 picks a free one")
    metrics_port: int = Field(
        0, ge=0, le=65535, description="port of /metrics and /health; 0: none"
    )
    max_concurrent_rpcs: int = Field(
        1000, ge=1, description="maximum of concurrent calls, streams included"
    )
    sure_concurrent_rpcs: int = Field(
        16, ge=1, description="concurrent calls without a first answer that are always admitted"
    )
    max_connections: int = Field(
        4_000, ge=0, description="gRPC connections, at most half of the open files; 0: no limit"
    )
    max_connection_rpcs: int = Field(
        0, ge=0, description="maximum of concurrent calls on one connection; 0: no limit"
    )
    max_caller_rpcs: int = Field(
        0, ge=0, description="maximum of concurrent calls of one user or shared key; 0: no limit"
    )
    max_rpc_seconds: float = Field(
        900.0, gt=0, description="longest deadline that a caller may set"
    )
    max_request_seconds: float = Field(
        30.0, gt=0, description="longest wait for a whole request message; then the call ends"
    )
    max_request_bytes: int = Field(4 * 1024 * 1024, ge=1024, description="largest gRPC request")
    max_write_seconds: float = Field(
        30.0,
        gt=0,
        description="longest wait of an answer or a stream message for its reader; then the call "
        "ends",
    )
    max_health_watchers: int = Field(
        256, ge=0, description="maximum of concurrent calls of Health/Watch; 0: not offered"
    )
    reflection: bool = Field(
        False, description="server reflection, which has no limits; for development only"
    )
    connection_age_seconds: float = Field(
        300.0, gt=0, description="age (± 10 %) at which clients reconnect and find new replicas"
    )
    lame_duck_seconds: float = Field(
        0.25,
        ge=0,
        description="time between not ready and refusing calls, for clients and load balancers",
    )
    drain_seconds: float = Field(10.0, ge=0, description="time for running calls at shutdown")
    log_format: str = Field(
        "text", pattern="^(text|json)$", description="text for people, json for machines"
    )
    otlp_endpoint: str = Field("", description="OTLP gRPC endpoint for traces; empty: no traces")
    tls_certificate: Path | None = Field(
        None, description="certificate of this service, PEM; unset: no TLS between services"
    )
    tls_key: Path | None = Field(None, description="key of the certificate, PEM")
    tls_authority: Path | None = Field(
        None, description="certificates of the trusted authorities, PEM"
    )

    identity_key: Path | None = Field(
        None, description="private key that signs calls of other services, PEM; unset: not signed"
    )
    identity_keys: Path | None = Field(
        None,
        description="folder with the public keys of the callers; unset: tenant and user of a call "
        "are accepted without a token",
    )
    identity_required: bool = Field(
        True, description="refuse calls without a token; false only while callers are upgraded"
    )

    @model_validator(mode="after")
    def _require_all_tls_files_or_none(self) -> Self:
        if (
            len({file is None for file in (self.tls_certificate, self.tls_key, self.tls_authority)})
            > 1
        ):
            raise PydanticCustomError(
                "incomplete",
                "tls_certificate, tls_key and tls_authority are set together or not at all",
            )
        return self

    def tls_files(self) -> "TlsFiles | None":
        """Return the certificate files, or None if services communicate without TLS.

        Raises:
            TlsFilesError: the files cannot be read or do not match.
        """
        if self.tls_certificate and self.tls_key and self.tls_authority:
            # Imported here, because mutual_tls needs gRPC.
            from services.chassis.mutual_tls import TlsFiles

            return TlsFiles(self.tls_certificate, self.tls_key, self.tls_authority)
        return None

    def token_signer(self, caller: str) -> "TokenSigner | None":
        """Return the signer of calls of the service `caller`, or None without a key.

        Raises:
            IdentityKeyError: the key is unusable.
        """
        from services.chassis.service_identity import TokenSigner

        return TokenSigner(caller, self.identity_key) if self.identity_key else None

    def token_verifier(self) -> "TokenVerifier | None":
        """Return the verifier of callers' tokens, or None without a folder of keys.

        Raises:
            IdentityKeyError: a key is unusable, or the folder has no keys.
        """
        from services.chassis.service_identity import TokenVerifier

        if self.identity_keys is None:
            return None
        return TokenVerifier(self.identity_keys, required=self.identity_required)


SettingsT = TypeVar("SettingsT", bound=BaseSettings)


class SettingsError(SystemExit):
    """Invalid settings. As a SystemExit, an uncaught error prints its text without a traceback.

    Args:
        text: one line per invalid setting.
        wrong: field and reason of each line; the reason is the pydantic error type in upper case,
            UNKNOWN or MALFORMED.
    """

    def __init__(self, text: str, wrong: Sequence[tuple[str, str]]) -> None:
        super().__init__(text)
        self.wrong = list(wrong)


def load_settings(settings_class: type[SettingsT]) -> SettingsT:
    """Read settings from the environment.

    Raises:
        SettingsError: a variable with the prefix is unknown (unless the class ignores unknown
            variables), a value is missing, out of its limits, or not valid JSON.
    """
    prefix = str(settings_class.model_config.get("env_prefix", "")).upper()
    known = {prefix + name.upper() for name in settings_class.model_fields}
    unknown = sorted(
        name
        for name in os.environ
        if prefix and name.upper().startswith(prefix) and name.upper() not in known
    )
    if unknown and settings_class.model_config.get("extra") != "ignore":
        raise SettingsError(
            f"settings: {', '.join(unknown)}: unknown; allowed: {', '.join(sorted(known))}",
            [(name, "UNKNOWN") for name in unknown],
        )
    try:
        return settings_class()
    except ValidationError as error:
        details = error.errors(include_url=False, include_context=False, include_input=False)
        lines, wrong = [], []
        for each in details:
            # Empty for an error of several fields, which its message names.
            field = ".".join(map(str, each["loc"]))
            message = each["msg"].removeprefix("Value error, ")
            lines.append(": ".join(part for part in ("settings", field, message) if part))
            wrong.append((field, each["type"].upper()))
        raise SettingsError("\n".join(lines), wrong) from None
    except InvalidJsonError as error:
        # pydantic's text: error parsing value for field "NAME" from source "EnvSettingsSource".
        field = str(error).partition('"')[2].partition('"')[0]
        text = 'not valid JSON; a list is written as ["a", "b"]'
        raise SettingsError(f"settings: {field}: {text}", [(field, "MALFORMED")]) from None


def program(service: str) -> str:
    """Return the name of a service's command line for its usage, such as `thumbwheel`."""
    if sys.argv[0].startswith("thumbwheel "):  # set by the command line of Thumbwheel
        return sys.argv[0].rpartition(" ")[0]
    return f"python -m services.{service}"
