"""Check that the committed stubs match the protos.

The stubs are generated into a temporary folder and compared.
"""

import filecmp
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    with tempfile.TemporaryDirectory() as fresh:
        environment = {**os.environ, "PROTO_PYTHON": sys.executable}
        subprocess.run(
            [str(ROOT / "infra/install/generate_protos.sh"), fresh], env=environment, check=True
        )
        stale = sorted(differing(Path(fresh), ROOT / "gen"))
    if stale:
        sys.exit(f"gen/ is stale; run infra/install/generate_protos.sh ({', '.join(stale)})")


def differing(left: Path, right: Path) -> set[str]:
    """Return the stubs that differ or are missing on either side."""
    names = {
        str(file.relative_to(side)) for side in (left, right) for file in side.rglob("*_pb2*.py*")
    }
    names = {name for name in names if "__pycache__" not in name}
    # cmpfiles lists the names that are missing on a side as errors.
    _, unequal, missing = filecmp.cmpfiles(left, right, names, shallow=False)
    return {*unequal, *missing}


if __name__ == "__main__":
    main()
