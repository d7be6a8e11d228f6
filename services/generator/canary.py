"""What training's loop and operators do with a rollout: start, renew, promote, roll back."""

import asyncio
import logging
import re
from dataclasses import dataclass
from pathlib import Path

from services.chassis.errors import FailedPreconditionError, InvalidArgumentError
from services.chassis.telemetry import fields
from services.generator.manifest import MANIFEST, NoManifestError, manifest_version
from services.generator.reconcile import Reconciler
from services.generator.rollout import Candidate
from services.generator.traffic import Traffic

log = logging.getLogger(__name__)

VERSION = re.compile(r"[a-z0-9][a-z0-9._-]{0,127}")
VERSION_LIMIT = "1 to 128 of a-z, 0-9, '.', '_', '-', beginning with a letter or digit"
MAX_SHARE = 0.5
MIN_LEASE_SECONDS, MAX_LEASE_SECONDS = 10.0, 24 * 3600.0
MAX_REASON_CHARACTERS = 500


@dataclass(frozen=True)
class CanaryRequest:
    """A version, its model directory, its share of the users, and how long it lives without
    renewal.
    """

    version: str
    directory: str
    share: float
    lease_seconds: float


class Canaries:
    """Changes the rollout. Every change is on disk when a method returns."""

    def __init__(self, traffic: Traffic, reconciler: Reconciler, load_seconds: float) -> None:
        self._traffic = traffic
        self._reconciler = reconciler
        self._load_seconds = load_seconds

    async def start(self, request: CanaryRequest) -> None:
        """Load the version, wait until it answers, and only then give it its share. Again: changes
        share and lease.

        A caller that goes away while the version loads leaves a candidate without users; asking
        again goes on from there, and the lease clears it away otherwise.

        Raises:
            InvalidArgumentError: version, directory, share or lease.
            FailedPreconditionError: another candidate is on trial, or the version cannot be loaded.
        """
        await _check_start(request)
        # The lease begins when the version is ready; until then loading has its own limit.
        patience = self._load_seconds + request.lease_seconds
        candidate = Candidate(
            request.version, request.directory, request.share, self._lease_end(patience)
        )
        await self._traffic.change(lambda rollout: rollout.propose(candidate))
        try:
            await self._reconciler.wait_ready(request.version)
        except FailedPreconditionError as error:
            await self._take_out(request.version, error.text)
            raise
        lease_end, now = self._lease_end(request.lease_seconds), self._traffic.now_us()
        await self._traffic.change(lambda rollout: rollout.begin(request.version, lease_end, now))
        log.info("canary started", extra=fields(version=request.version, share=request.share))

    async def renew(self, version: str, lease_seconds: float) -> None:
        """A new lease from now. Raises: InvalidArgumentError, FailedPreconditionError."""
        _check_version(version)
        _check_lease(lease_seconds)
        lease_end = self._lease_end(lease_seconds)
        await self._traffic.change(lambda rollout: rollout.renew(version, lease_end))

    async def promote(self, version: str, reason: str) -> None:
        """The candidate becomes stable. Raises: InvalidArgumentError, FailedPreconditionError."""
        _check_version(version)
        _check_reason(reason)
        now = self._traffic.now_us()
        await self._traffic.change(lambda rollout: rollout.promote(version, reason, now))
        log.info("canary promoted", extra=fields(version=version))

    async def roll_back(self, version: str, reason: str) -> None:
        """Stable has all users again. Raises: InvalidArgumentError, FailedPreconditionError."""
        _check_version(version)
        _check_reason(reason)
        await self._take_out(version, reason)
        log.info("canary rolled back", extra=fields(version=version))

    async def _take_out(self, version: str, reason: str) -> None:
        now = self._traffic.now_us()
        await self._traffic.change(
            lambda rollout: rollout.roll_back(version, reason[:MAX_REASON_CHARACTERS], now)
        )

    def _lease_end(self, seconds: float) -> int:
        return self._traffic.now_us() + int(seconds * 1e6)


async def _check_start(request: CanaryRequest) -> None:
    _check_version(request.version)
    if not 0 < request.share <= MAX_SHARE:
        raise _wrong("share", f"above 0 to {MAX_SHARE:g}")
    _check_lease(request.lease_seconds)
    directory = Path(request.directory)
    if not directory.is_absolute():
        raise _wrong("directory", "an absolute path")
    try:
        found = await asyncio.to_thread(manifest_version, directory)
    except NoManifestError as error:
        raise InvalidArgumentError(
            str(error), field="directory", limit=f"a model directory with {MANIFEST}"
        ) from error
    if found != request.version:
        raise _wrong("version", f"the one that {MANIFEST} names")


def _check_version(version: str) -> None:
    if not VERSION.fullmatch(version):
        raise _wrong("version", VERSION_LIMIT)


def _check_lease(seconds: float) -> None:
    if not MIN_LEASE_SECONDS <= seconds <= MAX_LEASE_SECONDS:
        raise _wrong("lease", "10 s to 24 h")


def _check_reason(reason: str) -> None:
    if len(reason) > MAX_REASON_CHARACTERS:
        raise _wrong("reason", f"at most {MAX_REASON_CHARACTERS} characters")


def _wrong(field: str, limit: str) -> InvalidArgumentError:
    return InvalidArgumentError(f"{field} must be {limit}", field=field, limit=limit)
