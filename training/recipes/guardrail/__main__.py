"""`python -m training.recipes.guardrail [directory]`: train the classifier and print its figures.

Without a directory the shipped weights are replaced, with equal bytes if nothing has changed.
"""

import hashlib
import json
import sys
from pathlib import Path

from training.recipes.guardrail.fit import WEIGHTS_NAME
from training.recipes.guardrail.recipe import guardrail, train

SHIPPED = Path(__file__).resolve().parents[3] / "services" / "guardrail" / "weights"


def main(arguments: list[str]) -> None:
    directory = Path(arguments[0]) if arguments else SHIPPED
    report = train(guardrail(), directory)
    print(json.dumps(report, indent=1))
    print(WEIGHTS_NAME, hashlib.sha256((directory / WEIGHTS_NAME).read_bytes()).hexdigest())


if __name__ == "__main__":
    main(sys.argv[1:])
