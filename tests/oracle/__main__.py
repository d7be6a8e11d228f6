"""`make oracle`: print losses and gradients of ours and of TRL on the same batch.

Exit status 1 means a difference. For development only: in addition to the development environment,
TRL and five small packages are downloaded once.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.oracle import ours, ours_policy
from tests.oracle.batch import Batch, write_batch
from tests.oracle.environments import python_of

TOLERANCE = 1e-5  # relative; both sides compute in fp32 and sum in different orders
HERE = Path(__file__).parent
SIDES = (("oracle", "theirs"), ("oracle_ppo", "theirs_ppo"))


def main() -> int:
    """Return the exit status."""
    with TemporaryDirectory() as folder:
        batch = write_batch(Path(folder))
        trl = {
            name: value
            for lock, script in SIDES
            for name, value in theirs(batch, lock, script).items()
        }
        mine = {
            **ours.losses(batch),
            **ours_policy.losses(batch),
            "SFT learns": ours.learned_texts(batch),
        }
    print(f"{'':28}{'ours':>16}{'TRL':>16}{'difference':>12}")
    wrong = [
        name
        for name in sorted(mine.keys() | trl.keys())
        if not same(name, mine.get(name), trl.get(name))
    ]
    print(
        f"==> {len(wrong)} of {len(mine.keys() | trl.keys())} differ"
        f"{': ' if wrong else ''}{', '.join(wrong)}"
    )
    return 1 if wrong else 0


def same(name: str, mine: float | list[str] | None, trl: float | list[str] | None) -> bool:
    """Compare two values and print one line."""
    if isinstance(mine, float) and isinstance(trl, float):
        difference = abs(mine - trl) / max(abs(trl), 1e-12)
        equal, figures = difference <= TOLERANCE, f"{mine:16.9f}{trl:16.9f}{difference:12.1e}"
    else:
        equal, figures = mine == trl, f"{_shown(mine):>16}{_shown(trl):>16}{'':12}"
    print(f"{name:28}{figures}  {'equal' if equal else 'DIFFERENT'}")
    return equal


def _shown(value: float | list[str] | None) -> str:
    return f"{len(value)} texts" if isinstance(value, list) else str(value or "nothing")


def theirs(batch: Batch, lock: str, script: str) -> dict[str, float | list[str]]:
    """Run the side of TRL in its environment without network; print its output only on failure."""
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_NUM_THREADS": "1",
    }
    command = [str(python_of(lock)), str(HERE / f"{script}.py"), str(batch.folder)]
    print(f"==> TRL of locks/{lock}.txt", flush=True)
    done = subprocess.run(
        command, cwd=batch.folder, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"oracle: {script}.py failed with {done.returncode}\n{done.stderr[-4000:]}")
    figures: dict[str, float | list[str]] = json.loads(
        (batch.folder / f"{script}.json").read_text()
    )
    return figures


if __name__ == "__main__":
    sys.exit(main())
