"""Storage formats of matrices."""

from pathlib import Path

import numpy as np
import openvino as ov
import pytest
from safetensors.numpy import save_file

from services.predictor.graph.checkpoint import Checkpoint
from services.predictor.graph.weights import (
    GROUP_VALUES,
    Constants,
    QuantisedMatrix,
    WeightFormat,
    Weights,
    quantise,
)

NAME = "weight"


def saved(directory: Path, matrix: np.ndarray) -> Checkpoint:
    save_file({NAME: matrix}, directory / "model.safetensors")
    return Checkpoint(directory)


def restored(matrix: QuantisedMatrix) -> np.ndarray:
    values = matrix.values.astype(np.float32) - matrix.zero_points
    found = values * matrix.scales.astype(np.float32)
    return found.reshape(len(found), -1)


def random_matrix(rows: int, columns: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((rows, columns), np.float32)


def test_a_large_value_widens_the_error_of_its_own_group_only(tmp_path: Path) -> None:
    matrix = random_matrix(3, 2 * GROUP_VALUES)
    matrix[1, 5] = 400
    errors = np.abs(restored(quantise(saved(tmp_path, matrix), NAME)) - matrix)
    groups = errors.reshape(3, 2, GROUP_VALUES).max(-1)
    assert groups[1, 0] > 0.5
    assert np.delete(groups.ravel(), 2).max() < 0.02


def test_a_row_that_groups_do_not_divide_is_one_group(tmp_path: Path) -> None:
    matrix = random_matrix(4, GROUP_VALUES + 8)
    quantised = quantise(saved(tmp_path, matrix), NAME)
    assert quantised.scales.shape == (4, 1, 1)
    assert np.abs(restored(quantised) - matrix).max() < 0.02


@pytest.mark.parametrize(
    ("weight_format", "limit"),
    [(WeightFormat.U8, 2e-2), (WeightFormat.F32, 0.0)],
)
@pytest.mark.parametrize("columns", [2 * GROUP_VALUES, GROUP_VALUES + 8])
def test_a_node_has_the_values_of_the_checkpoint(
    tmp_path: Path, weight_format: WeightFormat, limit: float, columns: int
) -> None:
    matrix = random_matrix(5, columns)
    constants = Constants()
    node = Weights(saved(tmp_path, matrix), weight_format, constants).matrix(NAME, 5, columns)
    model = ov.Model([ov.opset15.result(node)], [], "matrix")
    compiled = ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    errors = np.abs(compiled([])[0] - matrix)
    assert errors.max() <= limit
    assert (errors.max() > 0) == (limit > 0)
