"""State folders and files with generated secrets, readable by their owner only."""

import os
import secrets
import stat
from collections.abc import Callable
from pathlib import Path

from training.errors import DetailedError

# Permission bits of the group and of others.
FOREIGN = 0o077


class ForeignFileError(DetailedError):
    """File of the state folder belongs to another user; its permissions are unchanged.

    `field` is the path.
    """

    reason = "FOREIGN_OWNER"


def forbid_foreign_access() -> None:
    """Create all files of this process and its children for their owner only."""
    os.umask(FOREIGN)


def restrict_folder(folder: Path, models: Path) -> None:
    """Create a folder, or remove the permissions of group and others from an existing folder and
    its content.

    Earlier versions created conversations and logs with the permissions of the umask.

    Args:
        models: folder below, whose files may be links of models elsewhere. These keep their
            permissions, which are also those of the model; other users do not reach them here.

    Raises:
        ForeignFileError: a file belongs to another user, for example root.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    # The folder first: afterwards no other user can open a file in it.
    _restrict(folder)
    for parent, folders, files in os.walk(folder):
        of_models = Path(parent).is_relative_to(models)
        for name in (*folders, *files):
            _restrict(Path(parent, name), may_be_linked=of_models)


def _restrict(path: Path, *, may_be_linked: bool = False) -> None:
    try:
        found = path.lstat()
        mode = stat.S_IMODE(found.st_mode)
        linked = may_be_linked and stat.S_ISREG(found.st_mode) and found.st_nlink > 1
        if mode & FOREIGN and not linked and not stat.S_ISLNK(found.st_mode):
            path.chmod(mode & ~FOREIGN)
    except FileNotFoundError:
        pass  # Removed concurrently, for example by a run of training.
    except PermissionError as error:
        raise ForeignFileError(
            f"{path} belongs to another user and others may read it; change its owner to the user "
            "who starts the system (chown)",
            field=str(path),
        ) from error


def read_or_create(file: Path, make: Callable[[], str] = lambda: secrets.token_hex(32)) -> str:
    """Return the text of a file; create the file from `make` if missing."""
    if not file.exists():
        partial = file.with_name(f"{file.name}.partial")
        partial.touch(mode=0o600)
        partial.write_text(make())
        partial.replace(file)
    return file.read_text()
