"""`python -m infra.kserve_simulation --state FOLDER`, in the cluster's namespaces: the controller,
until it is ended.
"""

import argparse
import asyncio
from pathlib import Path

from infra.cluster.api import connected
from infra.cluster.layout import Layout
from infra.kserve_simulation.controller import Controller


async def control(layout: Layout) -> None:
    """Until cancelled."""
    async with connected(layout) as api:
        await Controller(api).run()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m infra.kserve_simulation", description=__doc__)
    parser.add_argument("--state", type=Path, required=True, help="the cluster's folder")
    asyncio.run(control(Layout(parser.parse_args().state.resolve())))


if __name__ == "__main__":
    main()
