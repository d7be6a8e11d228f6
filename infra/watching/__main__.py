"""Generate the dashboards for Grafana: `python -m infra.watching`.

`--check` compares and writes nothing.
"""

import sys

from infra.watching.boards import BOARDS
from infra.watching.files import DASHBOARDS, PANEL_THRESHOLDS
from infra.watching.grafana import panel_thresholds, render


def main() -> None:
    wanted = {DASHBOARDS / f"{board.name}.json": render(board) for board in BOARDS}
    wanted[PANEL_THRESHOLDS] = panel_thresholds(BOARDS)
    files = {*DASHBOARDS.glob("*.json"), PANEL_THRESHOLDS}
    there = {file: file.read_text() for file in files if file.exists()}
    if "--check" not in sys.argv[1:]:
        for file in there.keys() - wanted.keys():
            file.unlink()
        for file, text in wanted.items():
            file.write_text(text)
    elif wanted != there:
        differing = sorted(
            file.name for file in {*wanted, *there} if wanted.get(file) != there.get(file)
        )
        sys.exit(f"stale dashboards: {', '.join(differing)}; run python -m infra.watching")


if __name__ == "__main__":
    main()
