"""Conversion of a model directory to an OpenVINO IR on disk, byte-identical for equal input.

The complete decoder is one stateful OpenVINO model: embeddings, layers, output head.

Shapes: B batch, L new tokens, D hidden size, V vocabulary.
"""

from pathlib import Path

import numpy as np
import openvino as ov
from openvino import opset15 as ops

from services.predictor.graph.architecture import Activation, Architecture, load_architecture
from services.predictor.graph.attention import (
    AttentionBlocks,
    Inputs,
    additive_masks,
    rotary_tables,
)
from services.predictor.graph.checkpoint import Checkpoint
from services.predictor.graph.weights import Constants, WeightFormat, Weights

IR_NAME = "openvino_model.xml"
EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"


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


class DecoderGraph:
    """The graph of one decoder.

    `model` is valid only while this object lives, since its constants share the memory of our
    arrays.
    """

    def __init__(
        self, architecture: Architecture, checkpoint: Checkpoint, weight_format: WeightFormat
    ) -> None:
        self._constants = Constants()
        self._shape = architecture
        self._weights = Weights(checkpoint, weight_format, self._constants)
        shape, weights = self._shape, self._weights
        inputs = Inputs(
            input_ids=_parameter("input_ids", 2, ov.Type.i64),
            attention_mask=_parameter("attention_mask", 2, ov.Type.i64),
            position_ids=_parameter("position_ids", 2, ov.Type.i64),
            beam_idx=_parameter("beam_idx", 1, ov.Type.i32),
        )
        embedding_VD = weights.matrix(EMBEDDING, shape.vocab_size, shape.hidden_size)
        tables = rotary_tables(shape, inputs.position_ids, self._constants)
        attention = AttentionBlocks(
            shape, weights, inputs, tables, additive_masks(shape, inputs, self._constants)
        )
        x_BLD = ops.gather(embedding_VD, ops.convert(inputs.input_ids, "i32"), ops.constant(0))
        if shape.is_gemma:
            dtype = shape.dtype or checkpoint.torch_dtype(EMBEDDING)
            scale = self._constants.scalar(embedding_scale(shape.hidden_size, dtype), rank=3)
            x_BLD = ops.multiply(x_BLD, scale)
        for layer in range(shape.num_layers):
            x_BLD = self._layer(x_BLD, layer, attention)
        x_BLD = self._norm(x_BLD, "model.norm")
        # Without a setting the head is tied to the embedding if the checkpoint has no head.
        tied = HEAD not in checkpoint if shape.tied is None else shape.tied
        head_VD = (
            embedding_VD if tied else weights.matrix(HEAD, shape.vocab_size, shape.hidden_size)
        )
        logits = ops.matmul(x_BLD, head_VD, False, True)
        logits.friendly_name = "__module.lm_head/ov_ext::linear/MatMul"
        logits.output(0).get_tensor().set_names({"logits"})
        parameters = [inputs.input_ids, inputs.attention_mask, inputs.position_ids, inputs.beam_idx]
        self.model = ov.Model([ops.result(logits)], attention.assigns, parameters, "decoder")

    def _layer(self, x_BLD: ov.Node, layer: int, attention: AttentionBlocks) -> ov.Node:
        """Add attention and MLP with pre-norms and residuals; Gemma also norms each output."""
        name, gemma = f"model.layers.{layer}", self._shape.is_gemma
        branch = attention.build(self._norm(x_BLD, f"{name}.input_layernorm"), layer)
        if gemma:
            branch = self._norm(branch, f"{name}.post_attention_layernorm")
        x_BLD = ops.add(x_BLD, branch)
        before_mlp = "pre_feedforward_layernorm" if gemma else "post_attention_layernorm"
        input_BLD = self._norm(x_BLD, f"{name}.{before_mlp}")
        mlp = f"{name}.mlp"
        hidden, wide = self._shape.hidden_size, self._shape.intermediate_size
        gate = self._weights.linear(input_BLD, f"{mlp}.gate_proj", hidden, wide)
        gate = (
            ops.swish(gate) if self._shape.activation is Activation.SILU else ops.gelu(gate, "tanh")
        )
        up = self._weights.linear(input_BLD, f"{mlp}.up_proj", hidden, wide)
        branch = self._weights.linear(ops.multiply(gate, up), f"{mlp}.down_proj", wide, hidden)
        if gemma:
            branch = self._norm(branch, f"{name}.post_feedforward_layernorm")
        return ops.add(x_BLD, branch)

    def _norm(self, x_BLD: ov.Node, name: str) -> ov.Node:
        return self._weights.rms_norm(
            x_BLD, name, self._shape.norm_epsilon, float(self._shape.is_gemma)
        )


def embedding_scale(hidden_size: int, dtype: str) -> float:
    """Return Gemma's factor, sqrt(hidden_size) rounded to the type of the checkpoint.

    For hidden size 640 the factor is 25.25 in bfloat16 and 25.298 in float32. The trainer must
    round in the same way (docs/decisions/predictor.md).
    """
    exact = np.float32(hidden_size**0.5)
    if dtype == "bfloat16":
        # Round to nearest even: add half of the discarded range, plus one if the kept bit is odd.
        bits = exact.view(np.uint32)
        nearest_even = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
        return float((nearest_even & np.uint32(0xFFFF0000)).view(np.float32))
    return float(np.float16(exact)) if dtype == "float16" else float(exact)


def _parameter(name: str, rank: int, element: ov.Type) -> ov.Node:
    node = ops.parameter(ov.PartialShape([-1] * rank), element, name=name)
    node.output(0).get_tensor().set_names({name})
    return node
