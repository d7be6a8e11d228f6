"""Convert a model in a separate process.

Usage: `python -m services.predictor.graph SOURCE TARGET [u8|f32]`. A separate process keeps the
interpreter lock and the peak memory of a conversion away from running streams. The process lowers
its own priority, since the image has no `nice`. Exit status 2 means that the model was refused,
with the reason on standard error, and field, reason and limit as JSON on standard output.
"""

import json
import os
import sys
from pathlib import Path

from services.predictor.errors import ModelRefusedError
from services.predictor.graph.conversion import convert
from services.predictor.graph.weights import WeightFormat

REFUSED = 2
NICENESS = 5  # lower priority than running streams


def main(source: str, target: str, weight_format: str = WeightFormat.U8) -> int:
    """Convert a model and return the exit status."""
    try:
        convert(Path(source), Path(target), WeightFormat(weight_format))
    except ModelRefusedError as error:
        sys.stderr.write(error.text)
        sys.stdout.write(
            json.dumps({"field": error.field, "reason": error.reason, "limit": error.limit})
        )
        return REFUSED
    return 0


if __name__ == "__main__":
    os.nice(NICENESS)
    sys.exit(main(*sys.argv[1:]))
