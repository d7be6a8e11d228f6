"""`python -m services.predictor.graph SOURCE TARGET [u8|f32]`: convert in a process of its own.

The predictor converts this way so that neither the interpreter lock nor the peak memory of a
conversion touches running streams, and it steps back behind them by itself: an image has no `nice`.
Exit status 2 means that the model was refused, with the reason on standard error, and its field,
reason and limit as JSON on standard output.
"""

import json
import os
import sys
from pathlib import Path

from services.predictor.errors import ModelRefusedError
from services.predictor.graph.conversion import convert
from services.predictor.graph.weights import WeightFormat

REFUSED = 2
NICENESS = 5  # running streams go first


def main(source: str, target: str, weight_format: str = WeightFormat.U8) -> int:
    """Convert once."""
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
