"""HTTP endpoint with the caller's own identity and scopes."""

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from services.gateway.http.router import ProtectedRoute, Router
from services.gateway.identity.credential import Credential, Scope


class Account:
    """Endpoints about the caller."""

    def routes(self, router: Router) -> list[ProtectedRoute]:
        """Return the routes. Their rules are in access.py."""
        return [router.route("GET /api/account", self.show)]

    async def show(self, request: Request) -> Response:
        """Return tenant, user and scopes, which decide about the content of the page."""
        credential: Credential = request.state.credential
        scopes = [scope for scope in Scope if scope in credential.scopes]
        return JSONResponse(
            {"tenant": credential.caller.tenant, "user": credential.caller.user, "scopes": scopes}
        )
