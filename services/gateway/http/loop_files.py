"""What training's loop tells of itself: its status and its reports, read from its directory. The
loop is never called.
"""

import asyncio
import json
import re
from pathlib import Path

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from services.chassis.errors import NotFoundError, UnavailableError
from services.gateway.http.door import Door, DoorRoute
from services.gateway.request import wrong

# No separator and no leading dot: a name never leaves runs/.
_RUN = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")
# A report is a page of its own: it may style itself and nothing else, wherever it is opened.
REPORT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; sandbox"


class LoopFiles:
    """Endpoints over the loop's directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def routes(self, door: Door) -> list[DoorRoute]:
        """Their rules are in access.py."""
        return [
            door.route("GET /api/loop", self.status),
            door.route("GET /api/loop/report/{run}", self.report),
        ]

    async def status(self, request: Request) -> Response:
        """An empty object before the first turn: that no loop has run is not an error."""
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
            raise wrong("run", "1 to 128 of letters, digits, '.', '_', '-'")
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
