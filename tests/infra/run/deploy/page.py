"""Commands of the operating page, extracted verbatim for tests."""

import shlex
from pathlib import Path

from infra.install.environment import ROOT
from tests.infra.run.deploy.deployed import Deployed
from tests.support.pages import blocks_of

PAGE = ROOT / "docs" / "kubernetes.md"
MARK = "run: "


def blocks() -> dict[str, str]:
    """Return the command blocks by title."""
    return {
        block.mark.removeprefix(MARK): block.text
        for block in blocks_of(PAGE.read_text())
        if block.mark.startswith(MARK)
    }


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
