"""One frozen settings class a service, read once from the environment.

pydantic-settings' `extra="forbid"` does not see unknown environment variables, so `load_settings`
looks for them itself: a misspelt variable stops the service and does not silently give the default.
What is wrong ends the process by a line a setting, without values. Works without gRPC, which the
predictor has not.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeVar

from pydantic import Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, SettingsConfigDict
from pydantic_settings import SettingsError as NotJsonError

if TYPE_CHECKING:
    from services.chassis.mutual_tls import TlsFiles


class ServiceSettings(BaseSettings):
    """What every gRPC service can be told. Subclasses set `env_prefix` (TW_<SERVICE>_) and add
    their own fields.
    """

    # An error would quote what it was given, keys too.
    model_config = SettingsConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(ge=0, le=65535, description="gRPC port; 0 picks a free one")
    metrics_port: int = Field(0, ge=0, le=65535, description="port of /metrics; 0 serves none")
    max_concurrent_rpcs: int = Field(1000, ge=1, description="most calls at once, streams included")
    sure_concurrent_rpcs: int = Field(
        16, ge=1, description="calls that may always wait for their first answer at once"
    )
    max_connection_rpcs: int = Field(
        0, ge=0, description="calls at once on one connection; 0: no limit"
    )
    max_rpc_seconds: float = Field(
        900.0, gt=0, description="longest deadline that a caller may ask for"
    )
    max_write_seconds: float = Field(
        30.0,
        gt=0,
        description="how long one message of a stream waits for its reader; then the stream is cut",
    )
    connection_age_seconds: float = Field(
        300.0, gt=0, description="after it (± 10 %) clients connect anew, and find new replicas"
    )
    lame_duck_seconds: float = Field(
        0.25,
        ge=0,
        description="between not-ready and closing the door: until clients and load balancers have seen it",
    )
    drain_seconds: float = Field(10.0, ge=0, description="time that running calls get at shutdown")
    log_format: str = Field(
        "text", pattern="^(text|json)$", description="text for people, json for machines"
    )
    otlp_endpoint: str = Field("", description="OTLP gRPC endpoint for traces; empty sends none")
    tls_certificate: Path | None = Field(
        None, description="this service's certificate, PEM; unset: no TLS between services"
    )
    tls_key: Path | None = Field(None, description="the certificate's key, PEM")
    tls_authority: Path | None = Field(
        None, description="certificates of the authorities that peers must have, PEM"
    )

    @model_validator(mode="after")
    def _all_of_tls_or_nothing(self) -> Self:
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
        """None: services talk in the clear. Raises: TlsFilesError."""
        if self.tls_certificate and self.tls_key and self.tls_authority:
            from services.chassis.mutual_tls import TlsFiles  # its gRPC is not everywhere

            return TlsFiles(self.tls_certificate, self.tls_key, self.tls_authority)
        return None


SettingsT = TypeVar("SettingsT", bound=BaseSettings)


class SettingsError(SystemExit):
    """The service cannot be what it was told to be. Whom nobody catches ends the process by its
    text alone: no traceback.

    Args:
        text: a line for each wrong setting.
        wrong: field and reason of each line; the reason is pydantic's error type in upper case,
            UNKNOWN or MALFORMED.
    """

    def __init__(self, text: str, wrong: Sequence[tuple[str, str]]) -> None:
        super().__init__(text)
        self.wrong = list(wrong)


def load_settings(kind: type[SettingsT]) -> SettingsT:
    """Read settings from the environment once.

    Raises:
        SettingsError: a variable with the prefix names no field (unless the class ignores those;
            the text lists the known ones), a value is missing, out of its limits, or should be JSON
            and is not.
    """
    prefix = str(kind.model_config.get("env_prefix", "")).upper()
    known = {prefix + name.upper() for name in kind.model_fields}
    unknown = sorted(
        name
        for name in os.environ
        if prefix and name.upper().startswith(prefix) and name.upper() not in known
    )
    if unknown and kind.model_config.get("extra") != "ignore":
        raise SettingsError(
            f"settings: {', '.join(unknown)}: no such setting; known: {', '.join(sorted(known))}",
            [(name, "UNKNOWN") for name in unknown],
        )
    try:
        return kind()
    except ValidationError as error:
        wrong = error.errors(include_url=False, include_context=False, include_input=False)
        raise SettingsError(
            "\n".join(_line(each["loc"], each["msg"]) for each in wrong),
            [(_dotted(each["loc"]), each["type"].upper()) for each in wrong],
        ) from None
    except NotJsonError as error:
        raise SettingsError(_line((), str(error)), [("", "MALFORMED")]) from None


def _line(field: tuple[int | str, ...], reason: str) -> str:
    """Of what concerns several fields the reason names them."""
    return ": ".join(
        word for word in ("settings", _dotted(field), reason.removeprefix("Value error, ")) if word
    )


def _dotted(field: tuple[int | str, ...]) -> str:
    return ".".join(map(str, field))
