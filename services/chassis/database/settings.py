"""Settings of a Postgres database by its parts, from which the URL is built."""

from typing import Any, ClassVar, Literal
from urllib.parse import quote

from pydantic import BaseModel, Field, SecretStr, model_validator
from pydantic_core import PydanticCustomError

# Parts without a default.
PARTS = ("host", "name", "username", "password")


class PostgresParts(BaseModel):
    """Postgres database by host, name and password, as operators write them into secrets.

    A base of settings with `database_url`, which gets the URL of the parts. `database_url` itself
    may be one without a driver (postgresql://…), with `sslmode` as libpq knows it.
    """

    database_driver: ClassVar[str] = "postgresql+asyncpg"

    database_host: str = Field(
        "", pattern=r"^[^\s/@?#]*$", description="host of Postgres, in place of database_url"
    )
    database_port: int = Field(5432, ge=1, le=65535, description="port of database_host")
    database_name: str = Field("", pattern=r"^[^\s/?#]*$", description="database at database_host")
    database_username: str = Field("", description="role at database_host")
    database_password: SecretStr = Field(
        SecretStr(""), description="password of database_username, not encoded"
    )
    database_ssl_mode: Literal["", "require", "verify-ca", "verify-full"] = Field(
        "",
        description="TLS to database_host, as sslmode of libpq; empty: as the driver does by "
        "default, unverified. PGSSLROOTCERT names the authority",
    )

    @model_validator(mode="before")
    @classmethod
    def _url_of_parts(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        parts = {name: given.get(f"database_{name}") for name in PARTS}
        url = given.get("database_url")
        if not any(parts.values()):
            return (
                {**given, "database_url": _with_driver(url, cls.database_driver)} if url else given
            )
        if url:
            raise PydanticCustomError(
                "ambiguous", "database_url, database_host: set only one of the two"
            )
        if missing := [f"database_{name}" for name in PARTS if not parts[name]]:
            raise PydanticCustomError(
                "incomplete",
                "{missing}: required, with the other parts of the database",
                {"missing": ", ".join(missing)},
            )
        host, mode = str(parts["host"]), given.get("database_ssl_mode")
        password = parts["password"]
        if isinstance(password, SecretStr):
            password = password.get_secret_value()
        address = f"[{host}]" if ":" in host else host
        built = (
            f"{cls.database_driver}://{quote(str(parts['username']), safe='')}:"
            f"{quote(str(password), safe='')}@{address}:{given.get('database_port') or 5432}"
            f"/{parts['name']}{f'?ssl={mode}' if mode else ''}"
        )
        return {**given, "database_url": built}


def _with_driver(url: str, driver: str) -> str:
    """Return the URL with the driver, if its scheme names only Postgres."""
    scheme, _, rest = url.partition("://")
    if scheme not in ("postgres", "postgresql"):
        return url
    return f"{driver}://{rest.replace('?sslmode=', '?ssl=').replace('&sslmode=', '&ssl=')}"
