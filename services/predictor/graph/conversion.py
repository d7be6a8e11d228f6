"""Conversion of a model directory to an OpenVINO IR on disk, byte-identical for equal input."""

import json
from pathlib import Path

import openvino as ov

from services.predictor.errors import ModelRefusedError
from services.predictor.graph.architecture import Architecture, read_architecture
from services.predictor.graph.checkpoint import Checkpoint
from services.predictor.graph.decoder import DecoderGraph
from services.predictor.graph.weights import WeightFormat

IR_NAME = "openvino_model.xml"


def load_architecture(directory: Path) -> Architecture:
    """Read and check config.json.

    Raises:
        ModelRefusedError: the file is missing or invalid; names the file or the field.
    """
    try:
        config = json.loads((directory / "config.json").read_bytes())
    except FileNotFoundError as error:
        raise ModelRefusedError(
            "config.json is missing", field="config.json", reason="MISSING"
        ) from error
    except ValueError as error:
        raise ModelRefusedError(
            "config.json is not JSON", field="config.json", reason="MALFORMED"
        ) from error
    if not isinstance(config, dict):
        raise ModelRefusedError(
            "config.json must be an object",
            field="config.json",
            reason="MALFORMED",
            limit="an object",
        )
    return read_architecture(config)


def convert(source: Path, target: Path, weight_format: WeightFormat = WeightFormat.U8) -> None:
    """Write the IR of the model in `source` into the existing directory `target`.

    Raises:
        ModelRefusedError: the model is unsupported; the text names the file, tensor or field.
    """
    graph = DecoderGraph(load_architecture(source), Checkpoint(source), weight_format)
    # Name nodes without a name by their position. Default names contain a counter of the process,
    # so files would differ from run to run.
    for place, node in enumerate(graph.model.get_ordered_ops()):
        if node.get_friendly_name() == node.get_name():
            node.set_friendly_name(f"{node.get_type_name()}_{place}")
    ov.save_model(graph.model, str(target / IR_NAME), compress_to_fp16=False)
    # GenAI reads config.json if present.
    (target / "config.json").write_bytes((source / "config.json").read_bytes())
