"""Commands of the operating page, extracted verbatim for tests."""

import re
import shlex
from pathlib import Path

from infra.install.environment import ROOT
from tests.infra.run.deploy.deployed import Deployed

PAGE = ROOT / "docs" / "kubernetes.md"
BLOCK = re.compile(r"<!-- run: (?P<title>.+?) -->\n```sh\n(?P<commands>.+?)```", re.DOTALL)


def blocks() -> dict[str, str]:
    """Return the command blocks by title."""
    return {found["title"]: found["commands"] for found in BLOCK.finditer(PAGE.read_text())}


def run(deployed: Deployed, title: str, folder: Path, values: Path, setup: str = "") -> str:
    """Run a block in a folder with the chart, the values and the commands of this clone.

    Args:
        setup: commands before the block, such as a function that the page leaves to the operator.

    Raises:
        ClusterError: a command failed; contains its output.
    """
    links = {"charts": ROOT / "charts", ".venv": ROOT / ".venv", "my-values.yaml": values}
    for name, target in links.items():
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(target)
    names = f"release={deployed.name} namespace={deployed.namespace} name={deployed.name}"
    names += f" keys={deployed.name}-keys models={deployed.name}-models"
    script = f"cd {shlex.quote(str(folder))}\n{names}\n{setup}\n{blocks()[title]}"
    return deployed.shell.run("bash", "-euo", "pipefail", "-c", script, seconds=600)
