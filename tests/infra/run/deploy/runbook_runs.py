"""Runs of the runbooks' blocks on the test release."""

import json
from collections.abc import Mapping

from tests.infra.run.deploy.deployed import Deployed
from tests.support.runbooks import Block, names

BLOCK_SECONDS = 300
# First line of the block that sets the names, with the labels of an alert.
ALERT = "namespace=chat release=chat"


def variables(deployed: Deployed) -> Mapping[str, str]:
    """Return the variables of the blocks for this release."""
    labels = f"app.kubernetes.io/instance={deployed.name},app.kubernetes.io/component"
    return {
        "namespace": deployed.namespace,
        "release": deployed.name,
        "labels": labels,
        "name": deployed.name,
    }


def found_names(deployed: Deployed) -> Mapping[str, str]:
    """Return the variables as set by the block of the runbooks' start page."""
    commands = names()
    assert ALERT in commands
    release = f"namespace={deployed.namespace} release={deployed.name}"
    show = "".join(f'\necho "{name}=${name}"' for name in variables(deployed))
    shown = deployed.shell.run(
        "bash", "-euo", "pipefail", "-c", commands.replace(ALERT, release) + show
    )
    pairs = (line.partition("=") for line in shown.splitlines())
    return {name: value for name, _, value in pairs}


def run_block(
    deployed: Deployed,
    block: Block,
    changes: Mapping[str, str] | None = None,
    *,
    goes_on: bool = False,
) -> str:
    """Run a block and return its output, errors included.

    Args:
        changes: replacements in the commands, such as the service that an alert names.
        goes_on: continue after a failed command, as an interactive shell does.

    Raises:
        ClusterError: a command failed, unless `goes_on` is set.
    """
    commands = block.commands
    for old, new in (changes or {}).items():
        assert old in commands, f"{block} has no {old}"
        commands = commands.replace(old, new)
    settings = "".join(f"{name}={json.dumps(text)}\n" for name, text in variables(deployed).items())
    options = ("-uo", "pipefail") if goes_on else ("-euo", "pipefail")
    script = f"exec 2>&1\n{settings}{commands}" + ("\ntrue" if goes_on else "")
    return deployed.shell.run("bash", *options, "-c", script, seconds=BLOCK_SECONDS)
