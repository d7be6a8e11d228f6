"""The degraded version is a complete model with its own manifest."""

from pathlib import Path

import numpy as np
from safetensors.numpy import load, save, save_file

from infra.simulate.users.degraded_policy import degrade, swap_layers
from training.artifacts.manifest import read_manifest, verify_manifest


def tensors() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    names = [
        "model.embed_tokens.weight",
        *(f"model.layers.{n}.mlp.up_proj.weight" for n in range(4)),
    ]
    return {name: rng.normal(size=(3, 2)).astype(np.float16) for name in names}


def test_only_the_two_layers_are_swapped() -> None:
    before, after = tensors(), load(swap_layers(save(tensors())))
    places = {0: 3, 3: 0}
    assert before.keys() == after.keys()
    for name, values in before.items():
        number = int(name.split(".")[2]) if "layers" in name else 1
        other = name.replace(f"layers.{number}.", f"layers.{places.get(number, number)}.")
        assert np.array_equal(after[other], values)


def test_second_swap_restores_the_model() -> None:
    weights = save(tensors())
    twice = load(swap_layers(swap_layers(weights)))
    assert all(np.array_equal(values, twice[name]) for name, values in load(weights).items())


def test_degraded_model_is_a_separate_version(tmp_path: Path) -> None:
    source = tmp_path / "nano-0"
    source.mkdir()
    save_file(tensors(), source / "model.safetensors")
    (source / "config.json").write_text("{}")
    (source / "manifest.json").write_text("not this one")
    worse = degrade(source, tmp_path / "nano-0-worse")
    manifest = verify_manifest(worse)
    assert (manifest.version, manifest.parents) == ("nano-0-worse", ("nano-0",))
    assert set(manifest.files) == {"config.json", "model.safetensors"}
    assert degrade(source, worse) == worse
    assert read_manifest(worse).created == manifest.created
