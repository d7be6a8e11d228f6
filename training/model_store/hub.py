"""Source of an import: a model of the Hugging Face hub, at one commit.

Files are downloaded by the hub's client, which follows redirects without the token, waits after 429
and continues after a broken connection, but not in a later process. It compares sizes only; hashes
are compared by the import.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.errors import UnavailableError
from training.model_store.source import GIT, PARTIAL, SHA256, ModelImportError, SourceFile

REQUEST_SECONDS = 30.0
CLIENT_FOLDER = f"hub{PARTIAL}"  # of the client, for partial files and their state
DENIED, MISSING, LIMITED = (401, 403), 404, 429


@dataclass(frozen=True)
class HubAccess:
    """Address of a hub, and a token for gated and private models.

    Args:
        endpoint: URL; "" is the client's default, or the variable HF_ENDPOINT.
        token: "" without a token.
    """

    endpoint: str = ""
    token: str = ""

    def __repr__(self) -> str:
        return f"HubAccess({self.endpoint!r})"


class HubSource:
    """A model `owner/name` at a revision, which is resolved to a commit once.

    Raises:
        ModelImportError: the model or revision does not exist, or the token does not permit it.
        UnavailableError: the hub does not answer.
    """

    def __init__(self, spec: str, access: HubAccess) -> None:
        # Imports of half a second, for this source only.
        from huggingface_hub import HfApi
        from huggingface_hub.utils.tqdm import disable_progress_bars

        # The client logs redirected URLs, which contain signatures.
        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
        disable_progress_bars()
        self._id, _, revision = spec.partition("@")
        self._endpoint, self._token = access.endpoint or None, access.token or False
        with _translated(spec):
            found = HfApi(endpoint=self._endpoint, token=self._token).model_info(
                self._id,
                revision=revision or None,
                files_metadata=True,
                timeout=REQUEST_SECONDS,
            )
        self._commit = str(found.sha)
        self._files = [_source_file(sibling) for sibling in found.siblings or ()]
        self.name = f"{self._id}@{self._commit}"

    def files(self) -> Sequence[SourceFile]:
        """Return the files of the commit."""
        return self._files

    def fingerprint(self, file: SourceFile) -> str:
        """Return the hash that the hub states."""
        return file.fingerprint

    def fetch(self, file: SourceFile, into: Path) -> None:
        """Download a file of the commit."""
        from huggingface_hub import hf_hub_download

        with _translated(f"{self.name}: {file.name}"):
            path = hf_hub_download(
                self._id,
                file.name,
                revision=self._commit,
                local_dir=into / CLIENT_FOLDER,
                endpoint=self._endpoint,
                token=self._token,
            )
        Path(path).replace(into / file.name)


def _source_file(sibling: Any) -> SourceFile:
    fingerprint = f"{SHA256}:{sibling.lfs.sha256}" if sibling.lfs else f"{GIT}:{sibling.blob_id}"
    return SourceFile(str(sibling.rfilename), int(sibling.size or 0), fingerprint)


@contextmanager
def _translated(what: str) -> Iterator[None]:
    """Translate the client's errors, whose texts may contain signed URLs."""
    from httpx2 import HTTPError
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        yield
    except HFValidationError as error:
        raise ModelImportError(
            f"SOURCE: {what} is not a hub id", field="SOURCE", reason="MALFORMED"
        ) from error
    except HfHubHTTPError as error:
        raise _refusal(what, error.response.status_code) from error
    except (HTTPError, OSError) as error:
        raise UnavailableError(
            f"{what}: the hub does not answer ({type(error).__name__}); the same command continues",
            field="hub",
            reason="UNREACHABLE",
        ) from error


def _refusal(what: str, status: int) -> Exception:
    if status in DENIED:
        return ModelImportError(
            f"SOURCE: {what}: status {status}; the model is private or gated: accept its terms on "
            "the hub and give a token (--token-file or HF_TOKEN)",
            field="SOURCE",
            reason="DENIED",
        )
    if status == MISSING:
        return ModelImportError(
            f"SOURCE: {what}: the hub has no such model, revision or file (status {status})",
            field="SOURCE",
            reason="UNKNOWN",
        )
    reason = "LIMITED" if status == LIMITED else "UNREACHABLE"
    return UnavailableError(
        f"{what}: the hub answers with status {status}; the same command continues",
        field="hub",
        reason=reason,
    )
