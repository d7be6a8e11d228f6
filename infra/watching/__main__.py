"""Generate the dashboards for Grafana: `python -m infra.watching`.

`--check` compares and writes nothing.
"""

import sys

from infra.watching.boards import BOARDS
from infra.watching.files import DASHBOARDS
from infra.watching.grafana import render


def main() -> None:
    wanted = {f"{board.name}.json": render(board) for board in BOARDS}
    there = {file.name: file.read_text() for file in DASHBOARDS.glob("*.json")}
    if "--check" not in sys.argv[1:]:
        for name in there.keys() - wanted.keys():
            (DASHBOARDS / name).unlink()
        for name, text in wanted.items():
            (DASHBOARDS / name).write_text(text)
    elif wanted != there:
        differing = sorted(
            name for name in wanted.keys() | there.keys() if wanted.get(name) != there.get(name)
        )
        sys.exit(f"stale dashboards: {', '.join(differing)}; run python -m infra.watching")


if __name__ == "__main__":
    main()
