"""`python -m tests.mutants [NAME ...]`: plant each mutant in a copy and print the test that fails.

Exit status 1 means an unexpected result, such as an escaped mutant.
"""

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.mutants.catalogue import MUTANTS
from tests.mutants.planting import DoesNotApply, copy_to, first_failure, mutated, plant


def main(names: Sequence[str]) -> int:
    """Run all mutants, or those whose names start with one of `names`."""
    chosen = [mutant for mutant in MUTANTS if not names or mutant.name.startswith(tuple(names))]
    try:
        for mutant in chosen:
            mutated(mutant)
    except DoesNotApply as error:
        print(error, file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        directory = Path(folder)
        copy_to(directory)
        suites = tuple(dict.fromkeys(test for mutant in chosen for test in mutant.tests))
        if failed := first_failure(suites, directory):
            print(f"{failed} fails without a mutant", file=sys.stderr)
            return 1
        verdicts = []
        for mutant in chosen:
            verdicts.append(plant(mutant, directory))
            print(verdicts[-1].text(), flush=True)
    caught = sum(bool(verdict.caught_by) for verdict in verdicts)
    unexpected = [verdict.mutant.name for verdict in verdicts if not verdict.as_expected]
    print(
        f"{caught} caught, {len(verdicts) - caught} not; "
        f"unexpected: {', '.join(unexpected) or 'none'}"
    )
    return 1 if unexpected else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
