"""Install dependency groups into .venv: `python3 infra/install/environment.py services predictor`.

Runs on the system's Python with its standard library alone. Packages are downloaded once into a
cache outside the clone (THUMBWHEEL_CACHE, else thumbwheel in XDG_CACHE_HOME or ~/.cache) and
hard-linked from there. An unchanged group needs no work.
"""

import contextlib
import fcntl
import hashlib
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
VENV = ROOT / ".venv"
GROUPS = {
    "services": "the gRPC services (125 MB to download)",
    "predictor": "the model server (120 MB to download)",
    "training": "torch and ray (3 GB to download, 6 GB on disk)",
    "evaluation": "lm-eval, for benchmarks (60 MB to download)",
    "corpus": "crawler, extraction and filters of training texts (150 MB to download)",
    "tracking": "wandb and MLflow's client, for --track (50 MB to download)",
    "dev": "everything, with test tools (3.3 GB to download, 6.6 GB on disk)",
}
# Groups beside dev. Their locks are complete, and override a version that a package asks for.
BESIDE_DEV = ("tracking",)
# Exit statuses of a step interrupted by Ctrl-C. The signal reaches the whole terminal, and the step
# may exit before this process handles the signal.
STOPPED = (-signal.SIGINT, -signal.SIGTERM, 128 + signal.SIGINT, 128 + signal.SIGTERM)
MIN_PYTHON, FIRST_UNTESTED_PYTHON = (3, 11), (3, 14)


def main(groups: list[str]) -> None:
    unknown = [group for group in groups if group not in GROUPS]
    if unknown or not groups:
        sys.exit(f"environment: groups are {', '.join(GROUPS)}; got {', '.join(unknown) or 'none'}")
    if not MIN_PYTHON <= sys.version_info[:2] < FIRST_UNTESTED_PYTHON:
        sys.exit(
            f"environment: Python 3.11 to 3.13 is needed, this is {sys.version.split()[0]}; "
            "set for example PYTHON=python3.12"
        )
    VENV.mkdir(exist_ok=True)
    with (VENV / "groups.lock").open("w") as lock:  # uv uses the name `.lock`
        fcntl.flock(lock, fcntl.LOCK_EX)
        for group in groups:
            install(group)
        # `.venv/bin/thumbwheel`, the command line of this clone.
        python, command = VENV / "bin" / "python", VENV / "bin" / "thumbwheel"
        text = f"#!{python}\nfrom thumbwheel_cli.__main__ import main\n\nmain()\n"
        if not command.exists() or command.read_text() != text:
            command.write_text(text)
            command.chmod(0o755)


def install(group: str) -> None:
    """Install a group, unless the marker with the hash of its lock exists."""
    lock = ROOT / "locks" / f"{group}.txt"
    digest = hashlib.sha256(lock.read_bytes()).hexdigest()[:16]
    marker = VENV / "groups" / f"{group}-{digest}"
    dev_digest = hashlib.sha256((ROOT / "locks" / "dev.txt").read_bytes()).hexdigest()[:16]
    dev_is_current = (VENV / "groups" / f"dev-{dev_digest}").exists()
    if marker.exists() or (group not in ("dev", *BESIDE_DEV) and dev_is_current):
        return
    started = time.monotonic()
    print(f"==> installing {group}: {GROUPS[group]}; cached in {cache()}", flush=True)
    uv = find_uv()
    if not (VENV / "bin" / "python").exists():
        run([uv, "venv", "--quiet", "--allow-existing", "--python", sys.executable, str(VENV)])
    run(
        [
            uv,
            "pip",
            "install",
            "--python",
            str(VENV / "bin" / "python"),
            "--require-hashes",
            *(["--no-deps"] if group in BESIDE_DEV else []),
            "-r",
            str(lock),
        ]
    )
    # Make the packages of the clone importable: `services`, `training`, `infra`, `thumbwheel`.
    site = next((VENV / "lib").glob("python3*/site-packages"))
    (site / "thumbwheel.pth").write_text(f"{ROOT}\n{ROOT / 'gen'}\n")
    for old in marker.parent.glob(f"{group}-*"):
        old.unlink()
    marker.parent.mkdir(exist_ok=True)
    marker.touch()
    print(f"==> {group} installed in {time.monotonic() - started:.0f} s", flush=True)


def fill_environment(folder: Path, lock: Path, *options: str) -> None:
    """Create a separate environment in a folder, with the packages of a hash-pinned lock.

    Args:
        options: additional options of `uv pip install`.
    """
    uv = find_uv()
    run([uv, "venv", "--quiet", "--allow-existing", "--python", sys.executable, str(folder)])
    python = str(folder / "bin" / "python")
    install = [uv, "pip", "install", "--quiet", "--python", python]
    run([*install, "--require-hashes", *options, "-r", str(lock)])


def cache() -> Path:
    """Return the folder of downloads, outside any clone."""
    usual = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "thumbwheel"
    return Path(os.environ.get("THUMBWHEEL_CACHE") or usual)


def find_uv() -> str:
    """Return the pinned uv, installed once into the cache by pip with its hash checked."""
    lock = ROOT / "locks" / "uv.txt"
    home = cache() / "tools" / f"uv-{hashlib.sha256(lock.read_bytes()).hexdigest()[:16]}"
    binary = home / "bin" / "uv"
    if not binary.exists():
        print("==> installing uv, the installer (25 MB)", flush=True)
        # Environments made by uv have no pip; the base Python of .venv has.
        has_pip = importlib.util.find_spec("pip") is not None
        python = sys.executable if has_pip else f"{sys.base_prefix}/bin/python3"
        probe = [python, "-m", "pip", "--version"]
        if subprocess.run(probe, capture_output=True, check=False).returncode:
            sys.exit(
                f"environment: {python} has no pip; install it, on Debian with apt-get install "
                "python3-pip, or set for example PYTHON=python3.12"
            )
        with atomic_folder(home) as partial:
            run(
                [
                    python,
                    "-m",
                    "pip",
                    "install",
                    "--quiet",
                    "--disable-pip-version-check",
                    "--no-warn-script-location",
                    "--require-hashes",
                    "--target",
                    str(partial),
                    "-r",
                    str(lock),
                ]
            )
    return str(binary)


@contextlib.contextmanager
def atomic_folder(home: Path) -> Iterator[Path]:
    """Yield a folder to fill, and rename the folder at the end of the block.

    An incomplete installation is never visible.
    """
    partial = home.with_name(f"{home.name}.partial-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        try:
            partial.rename(home)
        except OSError:
            if not home.exists():  # a concurrent installation may have finished first
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def run(command: list[str]) -> None:
    """Run a step and show its output.

    A failure prints the command and exits. Ctrl-C raises KeyboardInterrupt.
    """
    environment = dict(os.environ)
    environment.setdefault("UV_CACHE_DIR", str(cache() / "uv"))
    cache().mkdir(parents=True, exist_ok=True)
    same_disk = cache().stat().st_dev == VENV.stat().st_dev
    environment.setdefault("UV_LINK_MODE", "hardlink" if same_disk else "copy")
    environment.setdefault("PIP_ROOT_USER_ACTION", "ignore")
    for name, twin in (("PIP_INDEX_URL", "UV_DEFAULT_INDEX"), ("PIP_CERT", "SSL_CERT_FILE")):
        if name in environment:
            environment.setdefault(twin, environment[name])
    done = subprocess.run(command, env=environment, check=False)
    if done.returncode in STOPPED:
        raise KeyboardInterrupt
    if done.returncode:
        sys.exit(f"environment: this step failed with {done.returncode}: {' '.join(command)}")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except KeyboardInterrupt:
        print("==> stopped")
        sys.exit(STOPPED[2])
