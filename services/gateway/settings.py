"""Settings of the gateway (TW_GATEWAY_*). Defaults are those of the embedded install."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, SettingsConfigDict

from services.chassis.database.settings import PostgresParts
from services.chassis.settings import ServiceSettings
from services.gateway.identity.issuer_settings import IssuerSettings
from services.gateway.quotas.quota import Allowance, Holder
from services.gateway.quotas.quotas import OutagePolicy, QuotaRules

MIN_SECRET_CHARACTERS = 16
LOOPBACK_HOSTS = frozenset({"127.0.0.1", "::1", "localhost"})
DATABASE_URL = Field(
    "sqlite+aiosqlite:///.state/keys.db",
    pattern=r"^(sqlite\+aiosqlite:///.+|postgresql\+asyncpg://.+)",
    description="SQLAlchemy URL of tenants, users and keys, with an asynchronous driver",
)


class DatabaseSettings(PostgresParts, BaseSettings):
    """Settings of the commands. Other TW_GATEWAY_* variables are ignored, not refused."""

    model_config = SettingsConfigDict(
        env_prefix="TW_GATEWAY_", frozen=True, extra="ignore", hide_input_in_errors=True
    )

    database_url: str = DATABASE_URL


class QuotaOverride(BaseModel):
    """Limits of one tenant, in place of the general limits. 0 means unlimited."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_turns_per_user: int | None = Field(None, ge=0)
    max_turns_per_tenant: int | None = Field(None, ge=0)
    user_requests_per_minute: int | None = Field(None, ge=0)
    tenant_requests_per_minute: int | None = Field(None, ge=0)
    user_tokens_per_day: int | None = Field(None, ge=0)
    tenant_tokens_per_day: int | None = Field(None, ge=0)
    user_feedback_per_minute: int | None = Field(None, ge=0)
    tenant_feedback_per_minute: int | None = Field(None, ge=0)
    max_readers_per_user: int | None = Field(None, ge=0)
    max_readers_per_tenant: int | None = Field(None, ge=0)
    user_calls_per_minute: int | None = Field(None, ge=0)
    tenant_calls_per_minute: int | None = Field(None, ge=0)
    user_erasures_per_hour: int | None = Field(None, ge=0)
    tenant_erasures_per_hour: int | None = Field(None, ge=0)


class GatewaySettings(PostgresParts, ServiceSettings):
    """Addresses, limits and timeouts of the gateway."""

    model_config = SettingsConfigDict(env_prefix="TW_GATEWAY_", frozen=True, extra="forbid")

    port: int = Field(50051, ge=0, le=65535, description="gRPC port; 0 picks a free one")
    max_connection_rpcs: int = Field(
        256, ge=0, description="concurrent calls on one gRPC connection; 0: unlimited"
    )
    max_caller_rpcs: int = Field(
        500,
        ge=0,
        description="concurrent gRPC calls of one user or shared key, streams and unread answers "
        "included; 0: unlimited",
    )
    max_request_bytes: int = Field(
        640 * 1024,
        ge=1024,
        le=4 * 1024 * 1024,
        description="largest gRPC request; all texts within the limits fit the default",
    )
    max_health_watchers: int = Field(
        0, ge=0, description="maximum of concurrent calls of Health/Watch; 0: not offered"
    )
    http_port: int = Field(8080, ge=0, le=65535, description="HTTP port; 0 picks a free one")
    guardrail_target: str = Field("127.0.0.1:50052", description="guardrail service")
    enhancer_target: str = Field("127.0.0.1:50053", description="enhancer service")
    session_target: str = Field("127.0.0.1:50054", description="session service")
    generator_target: str = Field("127.0.0.1:50055", description="generator service")
    feedback_target: str = Field("127.0.0.1:50056", description="feedback service")
    review_target: str = Field("127.0.0.1:50058", description="review service")
    principal_key: SecretStr = Field(
        min_length=16,
        description="HMAC key of principals; the same in session and feedback",
    )
    database_url: str = DATABASE_URL
    database_seconds: float = Field(
        3.0, gt=0, description="longest wait for Postgres, connecting included"
    )
    database_connections: int = Field(5, ge=1, description="connections to Postgres")
    owner_key_file: Path | None = Field(
        None, description="file with the owner's API key; created if missing"
    )
    key_cache_seconds: float = Field(
        3.0, ge=0, le=5, description="longest time a revoked key still works"
    )
    oidc_issuers: tuple[IssuerSettings, ...] = Field(
        (), description="trusted OpenID issuers, as JSON"
    )
    oidc_leeway_seconds: float = Field(
        30.0, ge=0, le=300, description="tolerated difference to an issuer's clock"
    )
    oidc_fetch_seconds: float = Field(
        3.0, gt=0, description="longest wait for an answer of an issuer"
    )
    oidc_refresh_seconds: float = Field(
        300.0, gt=0, description="age at which keys of an issuer are refreshed"
    )
    oidc_stale_seconds: float = Field(
        21_600.0, gt=0, description="maximum age of keys while the issuer is unavailable"
    )
    oidc_retry_seconds: float = Field(
        10.0, gt=0, description="shortest interval between two fetches of keys"
    )
    page_directory: Path | None = Field(
        None, description="folder of the built page; unset: no page"
    )
    page_session_seconds: int = Field(
        604_800, ge=60, le=2_592_000, description="time after which the page asks for the key again"
    )
    page_session_secure: bool | None = Field(
        None,
        description=(
            "session cookie of the page over TLS only; unset: unless host is a loopback address"
        ),
    )
    page_session_secrets: SecretStr = Field(
        SecretStr(""),
        description="secrets of the session cookie, comma-separated, each at least 16 characters: "
        "the first is used, the others are accepted; empty: principal_key",
    )
    http_metrics: bool = Field(
        False,
        description="/metrics on the HTTP port, without a key; enable only where operators alone "
        "reach the port",
    )
    loop_directory: Path = Field(
        Path(".state/loop"), description="status.json and runs/ of training's loop"
    )

    guard_seconds: float = Field(
        2.0, gt=0, description="longest wait for a verdict; afterwards no text is shown"
    )
    enhancer_seconds: float = Field(
        1.0, gt=0, description="longest wait for the enhancer; afterwards the typed text is used"
    )
    session_seconds: float = Field(5.0, gt=0, description="longest wait for session")
    feedback_seconds: float = Field(
        5.0, gt=0, description="longest wait for the feedback service's ack"
    )
    review_seconds: float = Field(5.0, gt=0, description="longest wait for review")
    first_text_seconds: float = Field(
        60.0, gt=0, description="longest wait for an event of the generator before any text"
    )
    idle_seconds: float = Field(30.0, gt=0, description="longest pause within an answer")
    turn_seconds: float = Field(600.0, gt=0, description="longest turn")
    finish_seconds: float = Field(
        15.0, gt=0, description="time limit of retries for storing an answer"
    )
    coalesce_seconds: float = Field(
        0.04,
        ge=0,
        le=1,
        description="pause after the first check of an answer; grows to four times this value",
    )
    keep_seconds: float = Field(
        600.0, gt=0, description="time for which the events of an ended turn can be resumed"
    )
    max_kept_characters: int = Field(
        50_000_000, ge=1, description="total text of ended turns kept for resuming, in characters"
    )
    http_drain_seconds: float = Field(
        2.0,
        ge=0,
        description="time for turns without a gRPC reader to end, after gRPC has drained",
    )
    sure_turns: int = Field(
        16, ge=1, description="turns always admitted to wait for their first text"
    )
    max_turns: int = Field(500, ge=1, description="maximum of concurrent turns, including streams")

    max_turns_per_user: int = Field(
        8, ge=0, description="concurrent turns of one user; 0: unlimited"
    )
    max_turns_per_tenant: int = Field(
        160, ge=0, description="concurrent turns of one tenant; 0: unlimited"
    )
    user_requests_per_minute: int = Field(
        60, ge=0, description="new turns per minute of one user; 0: unlimited"
    )
    tenant_requests_per_minute: int = Field(
        1_200, ge=0, description="new turns per minute of one tenant; 0: unlimited"
    )
    user_tokens_per_day: int = Field(
        500_000, ge=0, description="tokens per day of one user, prompts and answers; 0: unlimited"
    )
    tenant_tokens_per_day: int = Field(
        10_000_000,
        ge=0,
        description="tokens per day of one tenant, prompts and answers; 0: unlimited",
    )
    user_feedback_per_minute: int = Field(
        120, ge=0, description="feedback events per minute of one user; 0: unlimited"
    )
    tenant_feedback_per_minute: int = Field(
        2_400, ge=0, description="feedback events per minute of one tenant; 0: unlimited"
    )
    max_readers_per_user: int = Field(
        20,
        ge=0,
        description=(
            "concurrent readers of one user's turns in this process, beyond the reader that began "
            "the turn; 0: unlimited"
        ),
    )
    max_readers_per_tenant: int = Field(
        400, ge=0, description="the same readers of one tenant; 0: unlimited"
    )
    user_calls_per_minute: int = Field(
        600,
        ge=0,
        description="calls of any kind per minute of one user in this process; 0: unlimited",
    )
    tenant_calls_per_minute: int = Field(
        12_000, ge=0, description="the same calls of one tenant; 0: unlimited"
    )
    user_erasures_per_hour: int = Field(
        10, ge=0, description="erasures of their data per hour of one user; 0: unlimited"
    )
    tenant_erasures_per_hour: int = Field(
        200, ge=0, description="the same erasures of one tenant; 0: unlimited"
    )
    quota_overrides: dict[str, QuotaOverride] = Field(
        default_factory=dict,
        description=(
            'limits by tenant as JSON, {"acme": {"user_tokens_per_day": 1000000}}; '
            "the general limits apply to the rest"
        ),
    )
    shared_key_users: int = Field(
        10,
        ge=1,
        description="limits of a key with the scope end_users, in multiples of one user's limits",
    )
    owner_users: int = Field(
        10,
        ge=1,
        description="limits of the user owner of the tenant default, in multiples of one user's",
    )
    quota_reply_tokens: int = Field(
        1024, ge=1, description="tokens reserved for an answer if a request sets no max_tokens"
    )
    quota_when_away: OutagePolicy = Field(
        OutagePolicy.LOCAL,
        description=(
            "during outages of Valkey, local counts in this process, refuse rejects turns, "
            "feedback and erasures"
        ),
    )

    answer_cache_seconds: float = Field(
        0.0,
        ge=0,
        le=2_592_000,
        description="lifetime of cached answers (temperature 0, per tenant); 0: no cache",
    )
    answer_cache_entries: int = Field(
        1_000, ge=1, description="maximum of cached answers per tenant"
    )

    valkey_url: str = Field(
        "",
        pattern="^((valkey|valkeys|redis|rediss|unix)://.+)?$",
        description="URL of the Valkey shared by gateways; empty: single gateway",
    )
    valkey_secret: SecretStr = Field(
        SecretStr(""),
        description="secret for user text in Valkey, at least 16 characters; same in all gateways",
    )
    valkey_seconds: float = Field(
        0.25,
        gt=0,
        le=5,
        description="longest wait for Valkey; afterwards the store counts as unavailable",
    )
    turn_lease_seconds: float = Field(
        2.0,
        ge=0.4,
        le=60,
        description="lease of a gateway; without heartbeat for two leases, readers get an error",
    )
    quota_lease_seconds: float = Field(
        30.0,
        ge=0.3,
        le=3600,
        description="lease of quota reservations, released after the loss of a gateway",
    )
    share_linger_seconds: float = Field(
        0.01, ge=0, le=1, description="linger of events before publication to other gateways"
    )
    share_look_seconds: float = Field(
        0.025,
        gt=0,
        le=1,
        description="poll interval for turns of other gateways and for stop requests",
    )

    @property
    def is_session_secure(self) -> bool:
        """Return True if browsers must send the session cookie over TLS only."""
        if self.page_session_secure is None:
            return self.host not in LOOPBACK_HOSTS
        return self.page_session_secure

    def session_secrets(self) -> list[str]:
        """Return the secrets of the session cookie, the one of new sessions first."""
        if own := self.page_session_secrets.get_secret_value():
            return own.split(",")
        return [self.principal_key.get_secret_value()]

    def audited(self) -> dict[str, str]:
        """Return the settings, by subject, whose changes belong in the audit log; no secrets."""
        quotas = {*QuotaOverride.model_fields, "quota_overrides", "owner_users"}
        subjects = {"oidc issuers": {"oidc_issuers"}, "quotas": quotas}
        return {
            # Sets are sorted, because their order differs between processes.
            subject: json.dumps(self.model_dump(include=names), sort_keys=True, default=sorted)
            for subject, names in subjects.items()
        }

    def quota_rules(self) -> QuotaRules:
        """Convert to the domain's type."""
        general = self.model_dump(include=set(QuotaOverride.model_fields))
        overrides = {
            tenant: _allowances({**general, **override.model_dump(exclude_none=True)})
            for tenant, override in self.quota_overrides.items()
        }
        return QuotaRules(
            *_allowances(general),
            overrides,
            self.quota_reply_tokens,
            self.shared_key_users,
            self.owner_users,
        )

    @model_validator(mode="after")
    def _check_valkey(self) -> Self:
        if self.valkey_url and len(self.valkey_secret.get_secret_value()) < MIN_SECRET_CHARACTERS:
            raise PydanticCustomError(
                "too_short",
                "valkey_secret must have {min_length} characters or more with a valkey_url",
                {"min_length": MIN_SECRET_CHARACTERS},
            )
        return self

    @model_validator(mode="after")
    def _check_session_secrets(self) -> Self:
        if min(map(len, self.session_secrets())) < MIN_SECRET_CHARACTERS:
            raise PydanticCustomError(
                "too_short",
                "page_session_secrets: each secret has at least {least} characters",
                {"least": MIN_SECRET_CHARACTERS},
            )
        return self

    @model_validator(mode="after")
    def _one_entry_an_issuer(self) -> Self:
        if len({entry.issuer for entry in self.oidc_issuers}) != len(self.oidc_issuers):
            raise PydanticCustomError("duplicate", "oidc_issuers names an issuer twice")
        return self


def _allowances(limits: Mapping[str, int]) -> tuple[Allowance, Allowance]:
    """Return the allowances of a user and of a tenant."""
    user, tenant = (
        Allowance(
            limits[f"{holder}_requests_per_minute"],
            limits[f"{holder}_tokens_per_day"],
            limits[f"max_turns_per_{holder}"],
            limits[f"{holder}_feedback_per_minute"],
            limits[f"max_readers_per_{holder}"],
            limits[f"{holder}_calls_per_minute"],
            limits[f"{holder}_erasures_per_hour"],
        )
        for holder in (Holder.USER, Holder.TENANT)
    )
    return user, tenant
