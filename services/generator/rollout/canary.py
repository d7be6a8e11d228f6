"""Changes of the rollout by the training loop and by operators."""

import asyncio
import json
import logging
import re
from dataclasses import dataclass, replace
from pathlib import Path

from services.chassis.audit.acts import Act, calling_service
from services.chassis.errors import DetailedError, FailedPreconditionError, InvalidArgumentError
from services.chassis.telemetry import fields
from services.contracts.identifiers import EXTERNAL_PREFIX
from services.contracts.limits import field_error
from services.generator.rollout.current_rollout import CurrentRollout
from services.generator.rollout.reconcile import Reconciler
from services.generator.rollout.rollout import Candidate, WatchTerms
from services.generator.store.fixed import ExternalServingError

log = logging.getLogger(__name__)

VERSION = re.compile(rf"(?!{re.escape(EXTERNAL_PREFIX)})[a-z0-9][a-z0-9._-]{{0,127}}")
VERSION_LIMIT = (
    "1 to 128 of a-z, 0-9, '.', '_', '-', starting with a letter or digit, "
    f"and not with {EXTERNAL_PREFIX}"
)
MAX_SHARE = 0.5
MIN_LEASE_SECONDS, MAX_LEASE_SECONDS = 10.0, 24 * 3600.0
MAX_REASON_CHARACTERS = 500


MANIFEST = "manifest.json"


class ManifestError(DetailedError):
    """The directory is not a finished model directory; `field` is the manifest or its key."""

    reason = "MISSING"


def manifest_version(directory: Path) -> str:
    """Return the version named in the manifest of a model directory. Blocking.

    The training pipeline writes manifest.json last, so the file marks a finished model.

    Raises:
        ManifestError: the manifest is missing, unreadable, or has no version of a rollout.
    """
    try:
        content = json.loads((directory / MANIFEST).read_bytes())
    except (OSError, ValueError) as error:
        raise ManifestError(
            f"the directory has no readable {MANIFEST}",
            field=str(directory / MANIFEST),
            reason="MISSING" if isinstance(error, OSError) else "MALFORMED",
        ) from error
    version = content.get("version") if isinstance(content, dict) else None
    if not isinstance(version, str) or not version:
        raise ManifestError(f"{MANIFEST} names no version", field="version")
    if version.startswith(EXTERNAL_PREFIX):
        limit = f"not beginning with {EXTERNAL_PREFIX}"
        raise ManifestError(
            f"version of {MANIFEST} must be {limit}",
            field="version",
            reason="OUT_OF_RANGE",
            limit=limit,
        )
    return version


@dataclass(frozen=True)
class CanaryRequest:
    """Request to start a canary.

    Args:
        version: name of the version, equal to the name in the manifest.
        directory: absolute path of the model directory.
        share: share of the users, above 0 to MAX_SHARE.
        lease_seconds: time until the canary ends if its lease is not renewed.
    """

    version: str
    directory: str
    share: float
    lease_seconds: float


class CanaryController:
    """Starts, renews, promotes and rolls back canaries; changes are stored before the return."""

    def __init__(
        self,
        current: CurrentRollout,
        reconciler: Reconciler,
        load_seconds: float,
        watch: WatchTerms,
    ) -> None:
        self._current = current
        self._reconciler = reconciler
        self._load_seconds = load_seconds
        self._watch = watch

    async def start(self, request: CanaryRequest) -> None:
        """Load the version, wait until the version is ready, then give the candidate its share.

        For the present candidate, change share and lease. If the caller disconnects while the
        version loads, a candidate without users remains. A repeated call continues from there, and
        otherwise the lease removes the candidate.

        Raises:
            InvalidArgumentError: version, directory, share or lease is invalid.
            FailedPreconditionError: there is another candidate, or the version cannot be loaded.
        """
        _check_version(request.version)
        if not 0 < request.share <= MAX_SHARE:
            raise field_error("share", f"above 0 to {MAX_SHARE:g}")
        _check_lease(request.lease_seconds)
        directory = Path(request.directory)
        if not directory.is_absolute():
            raise field_error("directory", "an absolute path")
        try:
            found = await asyncio.to_thread(manifest_version, directory)
        except ManifestError as error:
            raise InvalidArgumentError(
                str(error), field="directory", limit=f"a model directory with {MANIFEST}"
            ) from error
        if found != request.version:
            raise field_error("version", f"the version in {MANIFEST}")
        # The lease starts when the version is ready. Until then the limit is the loading time plus
        # one lease.
        longest = self._load_seconds + request.lease_seconds
        candidate = Candidate(
            request.version, request.directory, request.share, self._lease_end(longest)
        )
        act = Act("canary requested", calling_service(), request.version)
        await self._current.change(lambda rollout: rollout.propose(candidate), act)
        try:
            await self._reconciler.wait_ready(request.version)
        except FailedPreconditionError as error:
            await self._roll_back(request.version, error.text)
            raise
        lease_end, now = self._lease_end(request.lease_seconds), self._current.now_us()
        await self._current.change(
            lambda rollout: rollout.start(request.version, lease_end, now),
            replace(act, act="canary started", detail=f"share {request.share:g}"),
        )
        log.info("canary started", extra=fields(version=request.version, share=request.share))

    async def renew(self, version: str, lease_seconds: float) -> None:
        """Start a new lease at the present time.

        Raises:
            InvalidArgumentError: version or lease is invalid.
            FailedPreconditionError: the version is not the candidate.
        """
        _check_version(version)
        _check_lease(lease_seconds)
        lease_end = self._lease_end(lease_seconds)
        await self._current.change(lambda rollout: rollout.renew(version, lease_end))

    async def promote(self, version: str, reason: str) -> None:
        """Make the candidate the stable version, and begin the watch.

        Raises:
            InvalidArgumentError: version or reason is invalid.
            FailedPreconditionError: the version is not the candidate, or is not ready.
        """
        _check_version(version)
        _check_reason(reason)
        now = self._current.now_us()
        await self._current.change(
            lambda rollout: rollout.promote(version, reason, now, self._watch),
            Act("canary promoted", calling_service(), version, detail=reason),
        )
        log.info("canary promoted", extra=fields(version=version))

    async def roll_back(self, version: str, reason: str) -> None:
        """Return all users to the stable version.

        Raises:
            InvalidArgumentError: version or reason is invalid.
            FailedPreconditionError: the version is stable.
        """
        _check_version(version)
        _check_reason(reason)
        await self._roll_back(version, reason)
        log.info("canary rolled back", extra=fields(version=version))

    async def _roll_back(self, version: str, reason: str) -> None:
        now = self._current.now_us()
        await self._current.change(
            lambda rollout: rollout.roll_back(version, reason[:MAX_REASON_CHARACTERS], now),
            Act("canary rolled back", calling_service(), version, detail=reason),
        )

    def _lease_end(self, seconds: float) -> int:
        return self._current.now_us() + int(seconds * 1e6)


class NoCanaries:
    """Refuses every change of the rollout, because an external model answers.

    Refused acts are recorded like those of a `CanaryController`. Each method raises
    ExternalServingError.
    """

    def __init__(self, current: CurrentRollout) -> None:
        self._current = current

    async def start(self, request: CanaryRequest) -> None:
        """Refuse to start a canary."""
        await self._refuse("canary requested", request.version)

    async def renew(self, version: str, lease_seconds: float) -> None:
        """Refuse to renew the lease."""
        await self._refuse("canary renewed", version)

    async def promote(self, version: str, reason: str) -> None:
        """Refuse to promote a version."""
        await self._refuse("canary promoted", version)

    async def roll_back(self, version: str, reason: str) -> None:
        """Refuse to roll back a canary."""
        await self._refuse("canary rolled back", version)

    async def _refuse(self, act: str, version: str) -> None:
        error = ExternalServingError()
        # A name that is no version stays out of the audit log.
        named = version if is_version(version) else ""
        await self._current.record_refusal(Act(act, calling_service(), named), error)
        raise error


def is_version(name: str) -> bool:
    """Return True for a valid name of a version, see VERSION_LIMIT."""
    return VERSION.fullmatch(name) is not None


def _check_version(version: str) -> None:
    if not is_version(version):
        raise field_error("version", VERSION_LIMIT)


def _check_lease(seconds: float) -> None:
    if not MIN_LEASE_SECONDS <= seconds <= MAX_LEASE_SECONDS:
        raise field_error("lease", "10 s to 24 h")


def _check_reason(reason: str) -> None:
    if len(reason) > MAX_REASON_CHARACTERS:
        raise field_error("reason", f"at most {MAX_REASON_CHARACTERS} characters")
