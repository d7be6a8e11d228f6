"""Run the simulated KServe controller in the namespaces of the cluster until stopped.

Usage: `python -m infra.simulate.kserve --state FOLDER [--initializer IMAGE]`.
"""

import argparse
import asyncio
from pathlib import Path

from infra.machine.cluster.api import connected
from infra.machine.cluster.layout import Layout
from infra.simulate.kserve.controller import Controller


async def control(layout: Layout, initializer: str) -> None:
    """Run the controller until cancelled."""
    async with connected(layout) as api:
        await Controller(api, initializer).run()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m infra.simulate.kserve", description=__doc__)
    parser.add_argument("--state", type=Path, required=True, help="state folder of the cluster")
    parser.add_argument(
        "--initializer",
        default="",
        metavar="IMAGE",
        help="image with Python and minio that downloads models from object stores",
    )
    options = parser.parse_args()
    asyncio.run(control(Layout(options.state.resolve()), options.initializer))


if __name__ == "__main__":
    main()
