"""The first version: nothing is left in a folder whose model cannot be had, and half a copy is made
again.
"""

from pathlib import Path

from infra.embedded.__main__ import parse, prepare
from infra.embedded.base_model import WrongBaseError, install_base
from infra.embedded.layout import Layout
from infra.small_model.errors import ModelError
from tests.support.errors import refused
from training.manifest import verify_manifest


def test_a_model_that_is_none_leaves_no_folder(tmp_path: Path) -> None:
    state = tmp_path / "state"
    words = ["up", "--model", "smal", "--state", str(state), "--port", "0", "--grpc-port", "0"]
    with refused(ModelError, field="MODEL", reason="UNKNOWN") as caught:
        prepare(parse(words))
    assert "MODEL=smal:" in caught.value.text
    assert not state.exists()


def test_a_copy_that_was_cut_off_is_made_again_and_the_folder_keeps_its_base(
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
