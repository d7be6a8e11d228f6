"""Status and reports of the training loop, read from its folder. The loop is never called."""

import asyncio
import json
import re
from pathlib import Path

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from services.chassis.errors import NotFoundError, UnavailableError
from services.contracts.limits import field_error
from services.gateway.http.router import ProtectedRoute, Router

# Without separators and leading dots, a name cannot leave runs/.
_RUN = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")
# A report is a separate page and may only use its own styles.
REPORT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; sandbox"


class LoopFiles:
    """Endpoints for the files of the loop."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def routes(self, router: Router) -> list[ProtectedRoute]:
        """Return the routes. Their rules are in access.py."""
        return [
            router.route("GET /api/loop", self.status),
            router.route("GET /api/loop/report/{run}", self.report),
        ]

    async def status(self, request: Request) -> Response:
        """Return the status, or an empty object before the first run."""
        try:
            text = await self._read(self._directory / "status.json", "no loop has run yet")
        except NotFoundError:
            return JSONResponse({})
        try:
            return JSONResponse(json.loads(text))
        except ValueError as error:
            raise UnavailableError(
                "the loop's status cannot be read", reason="LOOP_STATUS_BROKEN"
            ) from error

    async def report(self, request: Request) -> Response:
        run = request.path_params["run"]
        if not _RUN.fullmatch(run):
            raise field_error("run", "1 to 128 of letters, digits, '.', '_', '-'")
        text = await self._read(
            self._directory / "runs" / run / "report.html", "this run has no report"
        )
        return Response(
            text, media_type="text/html", headers={"content-security-policy": REPORT_POLICY}
        )

    async def _read(self, file: Path, missing: str) -> str:
        try:
            return await asyncio.to_thread(file.read_text)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise NotFoundError(missing) from error
