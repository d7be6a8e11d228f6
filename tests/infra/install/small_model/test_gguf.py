"""Blocks and header of a GGUF file, with the `gguf` package as the oracle."""

from pathlib import Path

import gguf as oracle
import numpy as np
import pytest
from gguf.quants import dequantize

from infra.install.small_model.errors import ModelError
from infra.install.small_model.gguf import BLOCKS, GgufFile, dequantise, read_gguf
from tests.support.errors import refused

QUANTISED = [kind for kind in BLOCKS if kind not in (0, 1)]


def random_blocks(kind: int, count: int = 64) -> np.ndarray:
    """Return random blocks: all codes, scales and signs, finite half-precision numbers."""
    rng = np.random.default_rng(kind)
    raw = rng.integers(0, 256, (count, BLOCKS[kind].size_bytes), np.uint8)
    halves = {6: (0,), 8: (0,), 12: (0, 2), 14: (208,)}[kind]
    for at in halves:
        raw[:, at : at + 2] = (
            rng.normal(size=count).astype(np.float16).view(np.uint8).reshape(count, 2)
        )
    return raw


@pytest.mark.parametrize("kind", QUANTISED)
def test_blocks_decode_bit_exactly_as_ggml(kind: int) -> None:
    raw = random_blocks(kind)
    expected = dequantize(raw, oracle.GGMLQuantizationType(kind)).reshape(-1)
    np.testing.assert_array_equal(dequantise(raw.reshape(-1), kind), expected)


def test_known_q8_block_is_scale_times_codes() -> None:
    raw = np.concatenate(
        [
            np.array([0.5], np.float16).view(np.uint8),
            np.arange(-16, 16, dtype=np.int8).view(np.uint8),
        ]
    )
    np.testing.assert_array_equal(dequantise(raw, 8), np.arange(-16, 16) * 0.5)


def write_small_file(path: Path) -> None:
    writer = oracle.GGUFWriter(path, "gemma3")
    writer.add_uint32("gemma3.block_count", 2)
    writer.add_array("tokenizer.ggml.tokens", ["<pad>", "▁the", "日"])
    writer.add_array("tokenizer.ggml.scores", [0.0, -1.5, -2.0])
    writer.add_tensor("a", np.arange(6, dtype=np.float32).reshape(2, 3))
    writer.add_tensor(
        "b", random_blocks(8, 2).reshape(2, 34), raw_dtype=oracle.GGMLQuantizationType.Q8_0
    )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_header_and_tensors_are_read_as_written(tmp_path: Path) -> None:
    write_small_file(tmp_path / "m.gguf")
    found = read_gguf(tmp_path / "m.gguf")
    assert found.metadata["gemma3.block_count"] == 2
    assert found.texts("tokenizer.ggml.tokens") == ["<pad>", "▁the", "日"]
    assert found.numbers("tokenizer.ggml.scores") == [0.0, -1.5, -2.0]
    np.testing.assert_array_equal(found.tensor("a"), np.arange(6).reshape(2, 3))
    assert found.tensor("b").shape == (2, 32)
    np.testing.assert_array_equal(found.tensor("b", [1]), found.tensor("b")[1:])


def test_other_format_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"PK\x03\x04" + bytes(64))
    with refused(ModelError, field="m.gguf", reason="MALFORMED", limit="GGUF"):
        read_gguf(tmp_path / "m.gguf")


def test_missing_metadata_field_is_named(tmp_path: Path) -> None:
    write_small_file(tmp_path / "m.gguf")
    with refused(ModelError, field="tokenizer.ggml.token_type", reason="MISSING"):
        read_gguf(tmp_path / "m.gguf").numbers("tokenizer.ggml.token_type")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "blk.0.attn_q.weight",
        "blk.0.attn_v.weight",
        "blk.3.attn_output.weight",
        "blk.0.ffn_down.weight",
    ],
)
def test_gemma_tensors_equal_the_oracle(gguf: GgufFile, gguf_path: Path, name: str) -> None:
    place = gguf.locations[name]
    block = BLOCKS[place.block_type]
    raw = np.fromfile(
        gguf_path,
        np.uint8,
        int(np.prod(place.shape)) // block.values * block.size_bytes,
        offset=place.offset_bytes,
    )
    expected = dequantize(
        raw.reshape(-1, block.size_bytes), oracle.GGMLQuantizationType(place.block_type)
    )
    np.testing.assert_array_equal(gguf.tensor(name), expected.reshape(place.shape))
