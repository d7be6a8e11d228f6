"""Imports from a hub on loopback: token, redirects, limits, interruptions, hashes."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.errors import refused
from tests.support.model_hub import COMMIT, ModelHub, serving
from training.__main__ import main
from training.artifacts.manifest import MANIFEST, Manifest, verify_manifest
from training.errors import UnavailableError
from training.model_store.destination import DirectoryDestination
from training.model_store.hub import CLIENT_FOLDER, HubAccess, HubSource
from training.model_store.importing import import_model
from training.model_store.source import ModelImportError

SHARD, TOKEN = "model-00002-of-00002.safetensors", "hf_secret_of_the_test"
PIECE = 1024


@pytest.fixture
def hub(model: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModelHub]:
    for name in ("HF_TOKEN", "HF_ENDPOINT", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("time.sleep", lambda _: None)  # pauses of the client between tries
    # The client keeps what it has received in whole pieces, of 10 MB by default.
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", PIECE)
    with serving(ModelHub(model)) as served:
        yield served


def imported(hub: ModelHub, root: Path, token: str = "") -> Manifest:
    source = HubSource("owner/model@main", HubAccess(hub.url, token))
    return import_model(source, "toy-1", DirectoryDestination(root), (), print)


def test_model_is_imported_at_its_commit(hub: ModelHub, tmp_path: Path) -> None:
    found = imported(hub, tmp_path / "models")
    assert verify_manifest(tmp_path / "models" / "toy-1") == found
    assert found.parents == (f"owner/model@{COMMIT}",)
    assert "/api/models/owner/model/revision/main" in hub.requests[0]


def test_second_import_downloads_nothing(hub: ModelHub, tmp_path: Path) -> None:
    imported(hub, tmp_path / "models")
    hub.requests.clear()
    imported(hub, tmp_path / "models")
    assert len(hub.requests) == 1


def test_token_reaches_the_hub_and_not_its_storage(
    hub: ModelHub, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    hub.token = TOKEN
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    words = ["import", "owner/model", "--name", "toy-1", "--to", str(tmp_path / "models")]
    assert main([*words, "--hub", hub.url, "--token-file", str(file)]) == 0
    assert hub.storage_tokens == []
    written = "".join(capfd.readouterr())
    assert TOKEN not in written
    assert "Signature" not in written


@pytest.mark.parametrize("token", ["", "wrong"])
def test_gated_model_without_a_valid_token_is_refused(
    hub: ModelHub, tmp_path: Path, token: str
) -> None:
    hub.token = TOKEN
    with refused(ModelImportError, field="SOURCE", reason="DENIED") as caught:
        imported(hub, tmp_path / "models", token)
    assert TOKEN not in str(caught.value)


def test_unknown_model_is_refused(hub: ModelHub) -> None:
    with refused(ModelImportError, field="SOURCE", reason="UNKNOWN"):
        HubSource("owner/other", HubAccess(hub.url))


def test_limited_download_is_tried_again(hub: ModelHub, tmp_path: Path) -> None:
    source = HubSource("owner/model", HubAccess(hub.url))
    hub.limited = 2
    import_model(source, "toy-1", DirectoryDestination(tmp_path / "models"), (), print)
    verify_manifest(tmp_path / "models" / "toy-1")
    assert hub.limited == 0


def test_limit_that_lasts_is_reported(hub: ModelHub) -> None:
    hub.limited = 1000
    with refused(UnavailableError, field="hub", reason="LIMITED"):
        HubSource("owner/model", HubAccess(hub.url))


def test_broken_connection_continues_where_it_ended(hub: ModelHub, tmp_path: Path) -> None:
    hub.truncated = 1
    imported(hub, tmp_path / "models")
    half = (hub.folder / "model-00001-of-00002.safetensors").stat().st_size // 2
    assert hub.ranges[1] == f"bytes={half // PIECE * PIECE}-"
    verify_manifest(tmp_path / "models" / "toy-1")


def test_import_that_was_given_up_continues_with_the_missing_files(
    hub: ModelHub, tmp_path: Path
) -> None:
    hub.broken = {SHARD}
    with refused(UnavailableError, field="hub", reason="UNREACHABLE"):
        imported(hub, tmp_path / "models")
    # A killed process leaves the client's partial file; no later call can use it.
    (left,) = (tmp_path / "models").glob(".toy-1.import")
    (left / CLIENT_FOLDER).mkdir(exist_ok=True)
    (left / CLIENT_FOLDER / "x.incomplete").write_bytes(b"x")
    hub.broken, hub.ranges = set(), []
    imported(hub, tmp_path / "models")
    assert len(hub.ranges) == 1
    found = verify_manifest(tmp_path / "models" / "toy-1")
    assert {path.name for path in (tmp_path / "models" / "toy-1").iterdir()} == {
        *found.files,
        MANIFEST,
    }


def test_wrong_content_is_deleted_and_downloaded_again(hub: ModelHub, tmp_path: Path) -> None:
    hub.changed = {SHARD}
    with refused(ModelImportError, field=SHARD, reason="MISMATCH"):
        imported(hub, tmp_path / "models")
    assert not (tmp_path / "models" / "toy-1").exists()
    hub.changed = set()
    imported(hub, tmp_path / "models")
    verify_manifest(tmp_path / "models" / "toy-1")


def test_wrong_small_file_is_refused(hub: ModelHub, tmp_path: Path) -> None:
    hub.changed = {"tokenizer.json"}
    with refused(ModelImportError, field="tokenizer.json", reason="MISMATCH"):
        imported(hub, tmp_path / "models")


def test_unreachable_hub_is_reported(hub: ModelHub) -> None:
    with refused(UnavailableError, field="hub", reason="UNREACHABLE"):
        HubSource("owner/model", HubAccess("http://127.0.0.1:9"))
