"""What a caller may know about themselves: as whom they are known here, and what they may do."""

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from services.gateway.credential import Credential, Scope
from services.gateway.http.door import Door, DoorRoute


class Account:
    """Endpoints about the caller."""

    def routes(self, door: Door) -> list[DoorRoute]:
        """Their rules are in access.py."""
        return [door.route("GET /api/account", self.show)]

    async def show(self, request: Request) -> Response:
        """The page asks it what to offer."""
        credential: Credential = request.state.credential
        scopes = [scope for scope in Scope if scope in credential.scopes]
        return JSONResponse(
            {"tenant": credential.caller.tenant, "user": credential.caller.user, "scopes": scopes}
        )
