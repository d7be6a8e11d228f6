"""Models that tests of imports read."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from tests.s3_server import S3Server, serving
from tests.training.toys import toy_model
from training.artifacts.manifest import MANIFEST

CARD = "---\nlicense: apache-2.0\n---\nA toy.\n"


@pytest.fixture(scope="session")
def model_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama-shaped model in two files, as a publisher would offer it."""
    folder = toy_model(tmp_path_factory.mktemp("published") / "model")
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    weight_map: dict[str, str] = {}
    for number, part in enumerate((names[:5], names[5:]), 1):
        file = f"model-0000{number}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, folder / file, {"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "model.safetensors").unlink()
    (folder / MANIFEST).unlink()
    (folder / "README.md").write_text(CARD)
    return folder


@pytest.fixture
def model(model_template: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(model_template, tmp_path / "model"))


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    """An object store with the bucket `team`, in the environment of the commands."""
    store = S3Server()
    store.buckets["team"] = {}
    with serving(store) as port:
        for name, value in {
            "ENDPOINT": f"127.0.0.1:{port}",
            "ACCESS_KEY": "key",
            "SECRET_KEY": "secret",
            "SECURE": "false",
        }.items():
            monkeypatch.setenv(f"TW_TRAINING_S3_{name}", value)
        yield store
