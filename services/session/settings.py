"""Settings of the session service (TW_SESSION_*)."""

from pathlib import Path
from typing import Self

from pydantic import Field, SecretStr, model_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import SettingsConfigDict

from services.chassis.database.settings import PostgresParts
from services.chassis.settings import ServiceSettings


class SessionSettings(PostgresParts, ServiceSettings):
    """Settings of the session service.

    Defaults are those of the embedded installation; paths are relative to the working directory.
    """

    model_config = SettingsConfigDict(env_prefix="TW_SESSION_", frozen=True, extra="forbid")

    port: int = Field(50054, ge=0, le=65535, description="gRPC port; 0 picks a free one")
    metrics_port: int = Field(
        51054, ge=0, le=65535, description="port of /metrics and /health; 0: none"
    )
    max_request_bytes: int = Field(
        1024 * 1024,
        ge=1024,
        le=4 * 1024 * 1024,
        description="largest gRPC request; all texts within the limits fit the default",
    )
    database_url: str = Field(
        "sqlite:///.state/sessions.db",
        pattern=r"^(sqlite:///.+|postgresql\+asyncpg://.+)",
        description=(
            "SQLAlchemy URL of the database: sqlite:///FILE, or "
            "postgresql+asyncpg://USER:PASSWORD@HOST/NAME"
        ),
    )
    connections: int = Field(
        4, ge=1, description="database connections: for reads with SQLite, in total with Postgres"
    )
    database_pool_seconds: float = Field(
        2.0,
        gt=0,
        description="longest wait for a free or new connection; Postgres only, as the next three",
    )
    database_lock_seconds: float = Field(2.0, gt=0, description="longest wait for a lock")
    database_statement_seconds: float = Field(3.0, gt=0, description="longest statement")
    database_work_seconds: float = Field(
        4.5,
        gt=0,
        description="longest transaction with all attempts; less than the timeout of the gateway",
    )
    principal_key: SecretStr = Field(
        min_length=16,
        description=(
            "key of the HMAC that derives the principal of a user; the same in gateway and feedback"
        ),
    )
    tokenizer_file: Path | None = Field(
        None, description="tokenizer.json of the model that answers; required without count_bytes"
    )
    count_bytes: bool = Field(
        False,
        description="for a model without a tokenizer.json, such as that of an external endpoint: "
        "count each byte of UTF-8 as a token, the most that byte-level tokenizers make of a text",
    )
    context_tokens: int = Field(
        8192,
        ge=64,
        description="window of the model: tokens of context and answer of one turn; "
        "for an external endpoint at most its context window",
    )
    reply_tokens: int = Field(
        1024, ge=1, description="tokens reserved for the answer if the request names no number"
    )
    template_tokens: int = Field(
        32,
        ge=0,
        description=(
            "tokens that the chat template adds once: a usual system prompt, the answer's prefix"
        ),
    )
    message_overhead_tokens: int = Field(
        6, ge=0, description="tokens that the chat template adds to each message"
    )
    max_conversations_per_user: int = Field(
        2_000,
        ge=0,
        description="stored conversations of one user, without those of /v1; 0: unlimited",
    )
    max_conversations_per_tenant: int = Field(
        40_000,
        ge=0,
        description="stored conversations of one tenant, without those of /v1; 0: unlimited",
    )
    max_turn_seconds: float = Field(
        900.0, gt=0, description="an answer that is open for longer is shown as failed"
    )
    feedback_target: str = Field(
        "127.0.0.1:50056", description="feedback service, host:port or dns:///name:port"
    )
    relay_timeout_seconds: float = Field(
        10.0, gt=0, description="timeout of one batch to the feedback service"
    )
    relay_poll_seconds: float = Field(
        1.0, gt=0, description="interval between reads of the outbox without a notification"
    )
    relay_linger_seconds: float = Field(
        0.25, ge=0, le=5, description="time during which finished turns collect for one batch"
    )
    relay_max_backoff_seconds: float = Field(
        15.0, gt=0, description="longest pause while the feedback service is unavailable"
    )
    relay_lease_seconds: float = Field(
        3.0,
        ge=0.1,
        description="time without renewal after which another replica takes over the relay",
    )

    @model_validator(mode="after")
    def _one_way_to_count(self) -> Self:
        if self.tokenizer_file is None and not self.count_bytes:
            raise PydanticCustomError(
                "incomplete", "tokenizer_file: required without count_bytes (tokens are counted)"
            )
        if self.tokenizer_file is not None and self.count_bytes:
            raise PydanticCustomError(
                "conflict", "count_bytes: not allowed with tokenizer_file, which counts exactly"
            )
        return self
