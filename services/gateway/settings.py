"""What the gateway can be told: TW_GATEWAY_*. Defaults are those of the embedded install."""

from collections.abc import Mapping
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, SettingsConfigDict

from services.chassis.settings import ServiceSettings
from services.gateway.credential import USUAL_SCOPES, Scope
from services.gateway.issuers import ALGORITHMS, Algorithm, Issuer, is_safe_url
from services.gateway.keys import NAME
from services.gateway.quota import Allowance, Holder
from services.gateway.quotas import QuotaRules, WhenAway

MIN_SECRET_CHARACTERS = 16
DATABASE_URL = Field(
    "sqlite+aiosqlite:///.state/keys.db",
    pattern=r"^(sqlite\+aiosqlite:///.+|postgresql\+asyncpg://.+)",
    description="SQLAlchemy URL of tenants, users and keys, with an asynchronous driver",
)


class DatabaseSettings(BaseSettings):
    """The part that the commands need; they know nothing of the rest, so they do not refuse it."""

    model_config = SettingsConfigDict(
        env_prefix="TW_GATEWAY_", frozen=True, extra="ignore", hide_input_in_errors=True
    )

    database_url: str = DATABASE_URL


class IssuerSettings(BaseModel):
    """One OpenID issuer; see docs/identity.md."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    issuer: str = Field(
        description="as its tokens say, letter by letter; https, or http on this machine"
    )
    audience: str = Field(min_length=1, description="what its tokens for us say in `aud`")
    tenant: str = Field("", pattern=f"^({NAME.pattern})?$", description="tenant of all its users")
    tenant_claim: str = Field("", description="or the claim that names the tenant")
    tenants: frozenset[str] = Field(
        frozenset(), description="the tenants that this issuer may name there"
    )
    user_claim: str = Field(
        "sub", min_length=1, description="the claim that names the user, and never changes"
    )
    scopes: frozenset[Scope] = Field(USUAL_SCOPES, description="what every token may do")
    scope_claim: str = Field("", description="a claim with more, such as `scope` or `groups`")
    scopes_by_value: Mapping[str, frozenset[Scope]] = Field(
        {}, description="what each of its values adds"
    )
    algorithms: tuple[Algorithm, ...] = Field(
        ALGORITHMS, min_length=1, description="what its tokens may be signed with"
    )

    @model_validator(mode="after")
    def _can_be_obeyed(self) -> Self:
        if not is_safe_url(self.issuer):
            raise PydanticCustomError(
                "malformed", "issuer must begin with https:// (http:// only on 127.0.0.1)"
            )
        if bool(self.tenant) == bool(self.tenant_claim) or bool(self.tenant_claim) != bool(
            self.tenants
        ):
            raise PydanticCustomError(
                "conflict", "an issuer has either tenant, or tenant_claim and tenants"
            )
        if bool(self.scope_claim) != bool(self.scopes_by_value):
            raise PydanticCustomError(
                "incomplete", "scope_claim and scopes_by_value are set together or not at all"
            )
        return self

    def rules(self) -> Issuer:
        """As the domain knows it."""
        return Issuer(
            url=self.issuer,
            audience=self.audience,
            tenant=self.tenant,
            tenant_claim=self.tenant_claim,
            tenants=self.tenants,
            user_claim=self.user_claim,
            scopes=self.scopes,
            scope_claim=self.scope_claim,
            scopes_by_value=self.scopes_by_value,
            algorithms=self.algorithms,
        )


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
    max_connection_rpcs: int = Field(
        256, ge=0, description="calls at once on one gRPC connection; 0: no limit"
    )
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
    database_url: str = DATABASE_URL
    database_seconds: float = Field(
        3.0, gt=0, description="longest wait for Postgres, connecting included"
    )
    database_connections: int = Field(5, ge=1, description="connections to Postgres")
    owner_key_file: Path | None = Field(
        None, description="file with the owner's API key; made if it is not there"
    )
    key_cache_seconds: float = Field(
        3.0, ge=0, le=5, description="how long a revoked key may still work"
    )
    oidc_issuers: tuple[IssuerSettings, ...] = Field(
        (), description="OpenID issuers whose tokens are believed, as JSON"
    )
    oidc_leeway_seconds: float = Field(
        30.0, ge=0, le=300, description="how far an issuer's clock may be from ours"
    )
    oidc_fetch_seconds: float = Field(
        3.0, gt=0, description="longest wait for an answer of an issuer"
    )
    oidc_refresh_seconds: float = Field(
        300.0, gt=0, description="keys of an issuer are fetched again when older"
    )
    oidc_stale_seconds: float = Field(
        21_600.0, gt=0, description="how old they may be while the issuer is away"
    )
    oidc_retry_seconds: float = Field(
        10.0, gt=0, description="an unknown key asks its issuer again no sooner"
    )
    page_directory: Path | None = Field(None, description="the built page; unset serves none")
    http_metrics: bool = Field(
        True, description="/metrics on the HTTP port, without a key; off where strangers reach it"
    )
    loop_directory: Path = Field(
        Path(".state/loop"), description="status.json and runs/ of training's loop"
    )

    guard_seconds: float = Field(
        2.0, gt=0, description="longest wait for a verdict; then no text is shown"
    )
    enhancer_seconds: float = Field(
        1.0, gt=0, description="longest wait for the enhancer; then the text stays as typed"
    )
    session_seconds: float = Field(5.0, gt=0, description="longest wait for session")
    feedback_seconds: float = Field(
        5.0, gt=0, description="longest wait for the feedback service's ack"
    )
    first_text_seconds: float = Field(
        60.0, gt=0, description="longest wait for an event of the generator before any text"
    )
    idle_seconds: float = Field(30.0, gt=0, description="longest pause within an answer")
    turn_seconds: float = Field(600.0, gt=0, description="longest turn")
    finish_seconds: float = Field(
        15.0, gt=0, description="how long storing an answer is tried again"
    )
    coalesce_seconds: float = Field(
        0.04,
        ge=0,
        le=1,
        description="from the first check of an answer to the second; later pauses grow to four times it",
    )
    keep_seconds: float = Field(
        600.0, gt=0, description="how long the events of an ended turn can be resumed"
    )
    max_kept_characters: int = Field(
        50_000_000, ge=1, description="text of ended turns kept for resuming, in all"
    )
    http_drain_seconds: float = Field(
        2.0,
        ge=0,
        description="after gRPC has drained: what turns without a gRPC reader get to end by themselves",
    )
    sure_turns: int = Field(
        16, ge=1, description="turns that may always wait for their first text at once"
    )
    max_turns: int = Field(500, ge=1, description="most turns at once, streams included")

    max_turns_per_user: int = Field(100, ge=0, description="turns at once of one user; 0: no limit")
    max_turns_per_tenant: int = Field(
        0, ge=0, description="turns at once of one tenant; 0: no limit"
    )
    user_requests_per_minute: int = Field(
        0, ge=0, description="turns begun in a minute by one user; 0: no limit"
    )
    tenant_requests_per_minute: int = Field(
        0, ge=0, description="turns begun in a minute by one tenant; 0: no limit"
    )
    user_tokens_per_day: int = Field(
        0, ge=0, description="tokens of prompts and answers of one user; 0: no limit"
    )
    tenant_tokens_per_day: int = Field(
        0, ge=0, description="tokens of prompts and answers of one tenant; 0: no limit"
    )
    quota_overrides: dict[str, QuotaOverride] = Field(
        default_factory=dict,
        description='JSON: limits by tenant, {"acme": {"user_tokens_per_day": 1000000}}; what is not named is as above',
    )
    quota_reply_tokens: int = Field(
        1024, ge=1, description="reserved for the answer of a request that sets no max_tokens"
    )
    quota_when_away: WhenAway = Field(
        WhenAway.LOCAL,
        description="while Valkey is away: local counts in this process, refuse admits nobody",
    )

    answer_cache_seconds: float = Field(
        0.0,
        ge=0,
        le=2_592_000,
        description="how long an answer at temperature 0 is shown again to its tenant; 0: never",
    )
    answer_cache_entries: int = Field(1_000, ge=1, description="answers that are kept for a tenant")

    valkey_url: str = Field(
        "",
        pattern="^((valkey|valkeys|redis|rediss|unix)://.+)?$",
        description="shared by gateways; empty: one gateway",
    )
    valkey_secret: SecretStr = Field(
        SecretStr(""),
        description="what users said lies in Valkey sealed under it, 16 characters or more; one for all",
    )
    valkey_seconds: float = Field(
        0.25, gt=0, le=5, description="longest wait for Valkey; then it counts as away"
    )
    turn_lease_seconds: float = Field(
        2.0,
        ge=0.4,
        le=60,
        description="a gateway that did not beat for so long may be dead; its readers wait as long again",
    )
    quota_lease_seconds: float = Field(
        30.0,
        ge=0.3,
        le=3600,
        description="what a killed gateway's turns had reserved is free again after",
    )
    share_linger_seconds: float = Field(
        0.01, ge=0, le=1, description="how long events collect before other gateways get them"
    )
    share_look_seconds: float = Field(
        0.025,
        gt=0,
        le=1,
        description="how often turns of other gateways, and orders to stop ours, are looked for",
    )

    def quota_rules(self) -> QuotaRules:
        """As the domain knows them."""
        general = self.model_dump(include=set(QuotaOverride.model_fields))
        overrides = {
            tenant: _allowances({**general, **override.model_dump(exclude_none=True)})
            for tenant, override in self.quota_overrides.items()
        }
        return QuotaRules(*_allowances(general), overrides, self.quota_reply_tokens)

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
    def _one_entry_an_issuer(self) -> Self:
        if len({entry.issuer for entry in self.oidc_issuers}) != len(self.oidc_issuers):
            raise PydanticCustomError("duplicate", "oidc_issuers names an issuer twice")
        return self


def _allowances(limits: Mapping[str, int]) -> tuple[Allowance, Allowance]:
    """Of a user and of the tenant."""
    user, tenant = (
        Allowance(
            limits[f"{holder}_requests_per_minute"],
            limits[f"{holder}_tokens_per_day"],
            limits[f"max_turns_per_{holder}"],
        )
        for holder in (Holder.USER, Holder.TENANT)
    )
    return user, tenant
