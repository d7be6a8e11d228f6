"""URLs of databases: without their password, and the files of SQLite."""

from pathlib import Path

from sqlalchemy.engine import URL, make_url

from durable_files.files import make_directory


def redacted_url(url: str | URL) -> str:
    """Return the URL without its password."""
    return make_url(url).render_as_string(hide_password=True)


def sqlite_file(url: str | URL) -> Path | None:
    """Return the file of a SQLite database; None for Postgres and a database in memory."""
    made = make_url(url)
    if made.get_backend_name() != "sqlite" or made.database in (None, "", ":memory:"):
        return None
    return Path(str(made.database)).absolute()


def create_private_file(url: str | URL) -> None:
    """Create the file of a SQLite database and its folder for the owner only, if they are missing.

    SQLite itself would create a file that all users can read.
    """
    file = sqlite_file(url)
    if file is not None:
        make_directory(file.parent, mode=0o700)
        if not file.exists():
            file.touch(mode=0o600)
