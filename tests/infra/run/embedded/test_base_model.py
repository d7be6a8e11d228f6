"""Base model of a state folder: no remains of failed installations, repair of partial copies."""

from pathlib import Path

from infra.install.small_model.errors import ModelError
from infra.run.embedded.__main__ import parse, prepare
from infra.run.embedded.base_model import (
    NothingToTrainError,
    WrongBaseError,
    claim_external,
    install_base,
)
from infra.run.embedded.layout import Layout
from infra.run.embedded.preflight import select_recipe
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


def test_a_folder_of_an_external_model_trains_nothing(tmp_path: Path) -> None:
    state = tmp_path / "state"
    words = ["up", "--server", "external", "--state", str(state), "--port", "0", "--grpc-port", "0"]
    assert prepare(parse(words))[1] is None
    with refused(NothingToTrainError, field="SERVER", reason="EXTERNAL_SERVING"):
        select_recipe("", state)
    with refused(NothingToTrainError, field="SERVER", reason="EXTERNAL_SERVING"):
        prepare(parse([*words, "--loop-every", "6h"]))
    with refused(WrongBaseError, field="MODEL", reason="MISMATCH", limit="external"):
        install_base(Layout(state, {}), "nano")


def test_a_folder_of_a_model_is_not_given_to_an_external_one(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "state", {})
    layout.models.mkdir(parents=True)
    install_base(layout, "nano")
    with refused(WrongBaseError, field="SERVER", reason="MISMATCH", limit="nano-0"):
        claim_external(layout.state)
