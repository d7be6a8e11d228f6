"""Settings of the review service (TW_REVIEW_*)."""

from pydantic import BaseModel, ConfigDict, Field, SecretStr
from pydantic_settings import SettingsConfigDict

from services.chassis.database.settings import PostgresParts
from services.chassis.settings import ServiceSettings
from services.review.arena.self_naming import FAMILY_NAMES


class ModelLabel(BaseModel):
    """Columns of a model on the leaderboard."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    developer: str = Field("", max_length=128, description="developer of the model")
    licence: str = Field("", max_length=128, description="licence of the model")


class ReviewSettings(PostgresParts, ServiceSettings):
    """Settings of the review service.

    Defaults are those of the embedded installation; paths are relative to the working directory.
    """

    model_config = SettingsConfigDict(env_prefix="TW_REVIEW_", frozen=True, extra="forbid")

    port: int = Field(50058, ge=0, le=65535, description="gRPC port; 0 picks a free one")
    metrics_port: int = Field(
        51058, ge=0, le=65535, description="port of /metrics and /health; 0: none"
    )
    max_request_bytes: int = Field(
        4 * 1024 * 1024,
        ge=1024,
        le=4 * 1024 * 1024,
        description="largest gRPC request; items of a draw need the default",
    )
    database_url: str = Field(
        "sqlite+aiosqlite:///.state/review.db",
        pattern=r"^(sqlite\+aiosqlite:///.+|postgresql\+asyncpg://.+)",
        description=(
            "SQLAlchemy URL of the database: sqlite+aiosqlite:///FILE, or "
            "postgresql+asyncpg://USER:PASSWORD@HOST/NAME"
        ),
    )
    database_connections: int = Field(
        5, ge=1, description="database connections; Postgres only, SQLite has one"
    )
    database_wait_seconds: float = Field(
        3.0, gt=0, description="longest wait for a connection or a statement"
    )
    principal_key: SecretStr = Field(
        min_length=16,
        description=(
            "key of the HMAC that derives the principal of a user; the same in gateway and feedback"
        ),
    )
    session_target: str = Field(
        "127.0.0.1:50054", description="session service, host:port or dns:///name:port"
    )
    generator_target: str = Field(
        "127.0.0.1:50055", description="generator service, host:port or dns:///name:port"
    )
    feedback_target: str = Field(
        "127.0.0.1:50056", description="feedback service, host:port or dns:///name:port"
    )
    peer_seconds: float = Field(5.0, gt=0, description="timeout of a call to session or generator")
    models: dict[str, ModelLabel] = Field(
        default_factory=dict,
        description="developer and licence by model name, for the leaderboard",
    )
    extra_models: tuple[str, ...] = Field(
        (), description="models that take part besides the versions that the generator serves"
    )
    excluded_models: tuple[str, ...] = Field(
        (), description="models that never take part in new battles"
    )
    family_names: tuple[str, ...] = Field(
        FAMILY_NAMES,
        description=(
            "names of model families: a vote is set aside if an answer contains a name that is "
            "also part of its model's name"
        ),
    )
    battles_per_hour: int = Field(30, ge=1, description="new battles of a user in an hour")
    votes_per_day: int = Field(
        50,
        ge=1,
        description="votes of a user in 24 hours; then no new battles, and votes weigh 0",
    )
    least_vote_seconds: float = Field(
        2.0, ge=0, description="votes sooner after the start of the later answer weigh 0"
    )
    leaderboard_seconds: float = Field(
        5.0,
        ge=0,
        description="shortest time between two computations of a leaderboard; 0: no pause",
    )
    screening_seconds: float = Field(
        600.0, gt=0, description="time between two searches for accounts that vote by arrangement"
    )
    raters: int = Field(2, ge=1, le=5, description="reviews of an item")
    further_raters: int = Field(
        1,
        ge=0,
        le=3,
        description=(
            "reviews more of an item on which reviewers disagree, before it waits for a resolution"
        ),
    )
    least_difference: int = Field(
        2, ge=1, le=4, description="difference of two scores on a scale that is a disagreement"
    )
    resolve_own: bool = Field(
        False, description="reviewers may resolve disagreements on items that they have judged"
    )
    item_days: float = Field(
        90.0, gt=0, description="days for which an item and its reviews are kept"
    )
    expiry_seconds: float = Field(
        3_600.0, gt=0, description="time between two removals of items that are too old"
    )
    user_appeals_per_day: int = Field(
        10, ge=0, description="appeals of a user against blocks of the guard in 24 hours"
    )
    tenant_appeals_per_day: int = Field(
        200, ge=0, description="appeals of a tenant against blocks of the guard in 24 hours"
    )
    erasure_seconds: float = Field(
        60.0, gt=0, description="time between two reads of feedback's list of erasures"
    )
    relay_timeout_seconds: float = Field(
        10.0, gt=0, description="timeout of a call to the feedback service"
    )
    relay_poll_seconds: float = Field(
        1.0, gt=0, description="interval between reads of the outbox without a notification"
    )
    relay_max_backoff_seconds: float = Field(
        15.0, gt=0, description="longest pause while the feedback service is unavailable"
    )
    relay_refused_seconds: float = Field(
        600.0, gt=0, description="time until an event that was refused is sent again"
    )
