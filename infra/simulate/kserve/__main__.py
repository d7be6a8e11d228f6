"""Run the simulated KServe controller in the namespaces of the cluster until stopped.

Usage: `python -m infra.simulate.kserve --state FOLDER`.
"""

import argparse
import asyncio
from pathlib import Path

from infra.machine.cluster.api import connected
from infra.machine.cluster.layout import Layout
from infra.simulate.kserve.controller import Controller


async def control(layout: Layout) -> None:
    """Run the controller until cancelled."""
    async with connected(layout) as api:
        await Controller(api).run()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m infra.simulate.kserve", description=__doc__)
    parser.add_argument("--state", type=Path, required=True, help="state folder of the cluster")
    asyncio.run(control(Layout(parser.parse_args().state.resolve())))


if __name__ == "__main__":
    main()
