"""An ordinary user of this machine with a clean clone, who types the commands of the pages.

Where tests run as root, the commands run as `nobody`, a user without rights on the files of root.
"""

import os
import pwd
import re
import shutil
import subprocess
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from infra.install.environment import ROOT, cache
from infra.run.supervision.ports import free_port
from tests.journeys.stack import START_SECONDS, Stack, follow

USER = "nobody"
PATH = "/usr/local/bin:/usr/bin:/bin"
# Settings of the machine for certificates and package registries.
MACHINE = re.compile(
    r"CERT|CA_|^SSL_|PROXY|^PIP_|^UV_|^NPM_|^PYTHON$|^LANG$|^PATH$|^USER$|^LOGNAME$", re.IGNORECASE
)
LINK = r"""
cp -al "$1/." "$2"
find "$2" -type d -exec chown "$3" {} + -exec chmod u+rwx {} +
find "$2" -type f \( ! -perm -o=r -o -name '.*' -o -name '*.lock' -o -name CACHEDIR.TAG \
  -o -path "$2/npm/*" \) -print0 |
  while IFS= read -r -d '' file; do
    cp -p "$file" "$file.copy"
    chown "$3" "$file.copy"
    mv -f "$file.copy" "$file"
  done
"""


def is_root() -> bool:
    return os.geteuid() == 0


def owner() -> str:
    """Return user and group of the commands as numbers of chown."""
    entry = pwd.getpwnam(USER)
    return f"{entry.pw_uid}:{entry.pw_gid}"


def give(folder: Path) -> None:
    """Make the user of the commands the owner of a folder and its content."""
    if is_root():
        subprocess.run(
            ["chown", "--recursive", "--no-dereference", owner(), str(folder)], check=True
        )


@contextmanager
def temporary_folder(name: str) -> Iterator[Path]:
    """Create a folder of the user; those of pytest are closed to other users."""
    folder = Path(tempfile.mkdtemp(prefix=f"thumbwheel-{name}-"))
    try:
        give(folder)
        yield folder
    finally:
        shutil.rmtree(folder)


@contextmanager
def copy_downloads() -> Iterator[Path]:
    """Provide the downloads of this machine in folders that belong to the user.

    Files are hard links to those of root, which the user can read but not change: a copy of nine
    gigabytes takes minutes. Files that a program writes in place, or that only root can read, are
    copies.
    """
    if not is_root():
        yield cache()
        return
    with temporary_folder("downloads") as folder:
        subprocess.run(
            ["bash", "-euc", LINK, "link", str(cache()), str(folder), owner()], check=True
        )
        yield folder


@dataclass
class Newcomer:
    """A user with a clone of HEAD and an otherwise empty home folder.

    Args:
        executed: commands of the pages that were executed, as written there.
    """

    home: Path
    environment: Mapping[str, str]
    executed: set[str] = field(default_factory=set)

    @property
    def clone(self) -> Path:
        return self.home / "thumbwheel"

    def run(self, command: str, *, seconds: float = 60, statuses: Collection[int] = (0,)) -> str:
        """Run a command in the clone and return its output.

        Args:
            statuses: expected exit statuses.
        """
        done = subprocess.run(
            ["timeout", "--kill-after=60", str(seconds), *self._words(command)],
            cwd=self.clone,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode in statuses, f"{command}: {done.returncode}\n{done.stdout[-4000:]}"
        self.executed.add(command)
        return done.stdout

    def run_python(self, code: str, python: str, replaced: Mapping[str, str]) -> str:
        """Run code of a page and return its output.

        Args:
            replaced: texts of the code, such as a port that is in use here, and their values.
        """
        text = code
        for old, new in replaced.items():
            assert old in text
            text = text.replace(old, new)
        output = self.run(f"{python} - <<'END'\n{text}\nEND", seconds=120)
        self.executed.add(code)
        return output

    @contextmanager
    def running(
        self, command: str, state: str = ".state", seconds: float = START_SECONDS
    ) -> Iterator[Stack]:
        """Run a command that starts a system, until the end of the block; then press Ctrl-C."""
        process = subprocess.Popen(
            self._words(command),
            cwd=self.clone,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        with follow(process, self.clone / state, seconds) as stack:
            self.executed.add(command)
            yield stack

    @staticmethod
    def _words(command: str) -> list[str]:
        user, group = owner().split(":")
        become = ("setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups")
        return [*(become if is_root() else ()), "bash", "-c", command]


@contextmanager
def newcomer(downloads: Path | None = None) -> Iterator[Newcomer]:
    """Create a home folder with a clone of HEAD.

    The public ports are free ones, because others may use the usual ones.

    Args:
        downloads: folder with downloads; None for none.
    """
    with temporary_folder("home") as home:
        # Hard links would give the objects of this repository another owner.
        clone = ("git", "clone", "--quiet", "--no-hardlinks", str(ROOT), str(home / "thumbwheel"))
        subprocess.run(clone, check=True)
        if downloads:
            (home / ".cache").mkdir()
            (home / ".cache" / "thumbwheel").symlink_to(downloads)
        give(home)
        environment = {name: value for name, value in os.environ.items() if MACHINE.search(name)}
        if is_root():
            environment |= {"USER": USER, "LOGNAME": USER, "PATH": PATH}
        ports = {"PORT": str(free_port()), "GRPC_PORT": str(free_port())}
        yield Newcomer(home, environment | {"HOME": str(home)} | ports)
