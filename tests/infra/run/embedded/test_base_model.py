"""Base model of a state folder: no remains of failed installations, repair of partial copies."""

from pathlib import Path

from infra.install.small_model.errors import ModelError
from infra.run.embedded.__main__ import parse, prepare
from infra.run.embedded.base_model import WrongBaseError, install_base
from infra.run.embedded.layout import Layout
from tests.support.errors import refused
from training.artifacts.manifest import verify_manifest


def test_invalid_model_leaves_no_folder(tmp_path: Path) -> None:
    state = tmp_path / "state"
    words = ["up", "--model", "smal", "--state", str(state), "--port", "0", "--grpc-port", "0"]
    with refused(ModelError, field="MODEL", reason="UNKNOWN") as caught:
        prepare(parse(words))
    assert "MODEL=smal:" in caught.value.text
    assert not state.exists()


def test_partial_copy_is_replaced_and_base_is_unchanged(
    tmp_path: Path,
) -> None:
    layout = Layout(tmp_path / "state", {})
    half = layout.models / "nano-0"
    half.mkdir(parents=True)
    (half / "half").touch()
    first = install_base(layout, "nano")
    assert first == half
    verify_manifest(first)
    assert [folder.name for folder in layout.models.iterdir()] == ["nano-0"]
    assert install_base(layout, "nano") == first
    (layout.state / "base.json").write_text('{"base": "small-0"}')
    with refused(WrongBaseError, field="MODEL", reason="MISMATCH", limit="small-0") as caught:
        install_base(layout, "nano")
    assert "nano-0" in caught.value.text
