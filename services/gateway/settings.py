"""What the gateway can be told: TW_GATEWAY_*. Defaults are those of the embedded install."""

from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from services.chassis.settings import ServiceSettings
from services.gateway.quotas import WhenAway

MIN_SECRET_CHARACTERS = 16
KEYS_DATABASE_URL = "sqlite+aiosqlite:///.state/keys.db"


class KeySettings(BaseSettings):
    """The part that `python -m services.gateway keys` needs; it knows nothing of the rest, so it does not refuse it."""

    model_config = SettingsConfigDict(env_prefix="TW_GATEWAY_", frozen=True, extra="ignore")

    keys_database_url: str = Field(default=KEYS_DATABASE_URL, description="SQLAlchemy URL of the keys, async driver")


class QuotaOverride(BaseModel):
    """Limits of one tenant that differ from those of the others; 0: no limit."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_turns_per_user: int | None = Field(None, ge=0)
    max_turns_per_tenant: int | None = Field(None, ge=0)
    user_requests_per_minute: int | None = Field(None, ge=0)
    tenant_requests_per_minute: int | None = Field(None, ge=0)
    user_tokens_per_day: int | None = Field(None, ge=0)
    tenant_tokens_per_day: int | None = Field(None, ge=0)


class GatewaySettings(ServiceSettings):
    """Targets, limits and times of the door."""

    model_config = SettingsConfigDict(env_prefix="TW_GATEWAY_", frozen=True, extra="forbid")

    port: int = Field(50051, ge=0, le=65535, description="gRPC port; 0 picks a free one")
    http_port: int = Field(8080, ge=0, le=65535, description="HTTP port; 0 picks a free one")
    guardrail_target: str = Field("127.0.0.1:50052", description="guardrail service")
    enhancer_target: str = Field("127.0.0.1:50053", description="enhancer service")
    session_target: str = Field("127.0.0.1:50054", description="session service")
    generator_target: str = Field("127.0.0.1:50055", description="generator service")
    feedback_target: str = Field("127.0.0.1:50056", description="feedback service")
    principal_key: SecretStr = Field(
        min_length=16,
        description="key of the HMAC that turns a user into a principal; the same in session and feedback",
    )
    keys_database_url: str = Field(KEYS_DATABASE_URL, description="SQLAlchemy URL of the keys, async driver")
    owner_key_file: Path | None = Field(None, description="file with the owner's API key; made if it is not there")
    key_cache_seconds: float = Field(3.0, ge=0, le=5, description="how long a revoked key may still work")
    page_directory: Path | None = Field(None, description="the built page; unset serves none")
    http_metrics: bool = Field(
        True, description="/metrics on the HTTP port, without a key; off where strangers reach it"
    )
    loop_directory: Path = Field(Path(".state/loop"), description="status.json and runs/ of training's loop")

    guard_seconds: float = Field(2.0, gt=0, description="longest wait for a verdict; then no text is shown")
    enhancer_seconds: float = Field(
        1.0, gt=0, description="longest wait for the enhancer; then the text stays as typed"
    )
    session_seconds: float = Field(5.0, gt=0, description="longest wait for session")
    feedback_seconds: float = Field(5.0, gt=0, description="longest wait for the feedback service's ack")
    first_text_seconds: float = Field(
        60.0, gt=0, description="longest wait for an event of the generator before any text"
    )
    idle_seconds: float = Field(30.0, gt=0, description="longest pause within an answer")
    turn_seconds: float = Field(600.0, gt=0, description="longest turn")
    finish_seconds: float = Field(15.0, gt=0, description="how long storing an answer is tried again")
    coalesce_seconds: float = Field(
        0.04,
        ge=0,
        le=1,
        description="from the first check of an answer to the second; later pauses grow to four times it",
    )
    keep_seconds: float = Field(600.0, gt=0, description="how long the events of an ended turn can be resumed")
    max_kept_characters: int = Field(50_000_000, ge=1, description="text of ended turns kept for resuming, in all")
    http_drain_seconds: float = Field(
        2.0, ge=0, description="after gRPC has drained: what turns without a gRPC reader get to end by themselves"
    )
    max_turns: int = Field(500, ge=1, description="turns at once in this process")

    max_turns_per_user: int = Field(100, ge=0, description="turns at once of one user; 0: no limit")
    max_turns_per_tenant: int = Field(0, ge=0, description="turns at once of one tenant; 0: no limit")
    user_requests_per_minute: int = Field(0, ge=0, description="turns begun in a minute by one user; 0: no limit")
    tenant_requests_per_minute: int = Field(0, ge=0, description="turns begun in a minute by one tenant; 0: no limit")
    user_tokens_per_day: int = Field(0, ge=0, description="tokens of prompts and answers of one user; 0: no limit")
    tenant_tokens_per_day: int = Field(0, ge=0, description="tokens of prompts and answers of one tenant; 0: no limit")
    quota_overrides: dict[str, QuotaOverride] = Field(
        default_factory=dict,
        description='JSON: limits by tenant, {"acme": {"user_tokens_per_day": 1000000}}; what is not named is as above',
    )
    quota_reply_tokens: int = Field(
        1024, ge=1, description="reserved for the answer of a request that sets no max_tokens"
    )
    quota_when_away: WhenAway = Field(
        WhenAway.LOCAL, description="while Valkey is away: local counts in this process, refuse admits nobody"
    )

    answer_cache_seconds: float = Field(
        0.0,
        ge=0,
        le=2_592_000,
        description="how long an answer at temperature 0 is shown again to its tenant; 0: never",
    )
    answer_cache_entries: int = Field(1_000, ge=1, description="answers that are kept for a tenant")

    valkey_url: str = Field(
        "", pattern="^((valkey|valkeys|redis|rediss|unix)://.+)?$", description="shared by gateways; empty: one gateway"
    )
    valkey_secret: SecretStr = Field(
        SecretStr(""), description="what users said lies in Valkey sealed under it, 16 characters or more; one for all"
    )
    valkey_seconds: float = Field(0.25, gt=0, le=5, description="longest wait for Valkey; then it counts as away")
    turn_lease_seconds: float = Field(
        2.0,
        ge=0.4,
        le=60,
        description="a gateway that did not beat for so long may be dead; its readers wait as long again",
    )
    quota_lease_seconds: float = Field(
        30.0, ge=0.3, le=3600, description="what a killed gateway's turns had reserved is free again after"
    )
    share_linger_seconds: float = Field(
        0.01, ge=0, le=1, description="how long events collect before other gateways get them"
    )
    share_look_seconds: float = Field(
        0.025, gt=0, le=1, description="how often turns of other gateways, and orders to stop ours, are looked for"
    )

    @model_validator(mode="after")
    def _check_valkey(self) -> Self:
        if self.valkey_url and len(self.valkey_secret.get_secret_value()) < MIN_SECRET_CHARACTERS:
            raise ValueError(f"valkey_secret must have {MIN_SECRET_CHARACTERS} characters or more with a valkey_url")
        return self
