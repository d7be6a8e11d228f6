"""Settings of one OpenID issuer, an element of TW_GATEWAY_OIDC_ISSUERS."""

from collections.abc import Mapping
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from services.gateway.identity.authentication import NAME
from services.gateway.identity.credential import DEFAULT_SCOPES, Scope
from services.gateway.identity.issuers import ALGORITHMS, Algorithm, Issuer, is_safe_url


class IssuerSettings(BaseModel):
    """One OpenID issuer. See docs/identity.md."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    issuer: str = Field(description="`iss` of its tokens, exactly; https, or http on this machine")
    audience: str = Field(min_length=1, description="`aud` of its tokens for this gateway")
    tenant: str = Field("", pattern=f"^({NAME.pattern})?$", description="tenant of all its users")
    tenant_claim: str = Field("", description="alternatively, the claim with the tenant")
    tenants: frozenset[str] = Field(frozenset(), description="tenants allowed in `tenant_claim`")
    user_claim: str = Field(
        "sub", min_length=1, description="claim with the user, which must never change"
    )
    scopes: frozenset[Scope] = Field(DEFAULT_SCOPES, description="scopes of every token")
    scope_claim: str = Field(
        "", description="claim with further scopes, such as `scope` or `groups`"
    )
    scopes_by_value: Mapping[str, frozenset[Scope]] = Field(
        {}, description="scopes added by each value of `scope_claim`"
    )
    algorithms: tuple[Algorithm, ...] = Field(
        ALGORITHMS, min_length=1, description="allowed signature algorithms"
    )

    @model_validator(mode="after")
    def _check_consistency(self) -> Self:
        if not is_safe_url(self.issuer):
            raise PydanticCustomError(
                "malformed", "issuer must begin with https:// (http:// only on 127.0.0.1)"
            )
        if bool(self.tenant) == bool(self.tenant_claim) or bool(self.tenant_claim) != bool(
            self.tenants
        ):
            raise PydanticCustomError(
                "conflict", "an issuer has either tenant, or tenant_claim and tenants"
            )
        if bool(self.scope_claim) != bool(self.scopes_by_value):
            raise PydanticCustomError(
                "incomplete", "scope_claim and scopes_by_value are set together or not at all"
            )
        return self

    def rules(self) -> Issuer:
        """Convert to the domain's type."""
        return Issuer(
            url=self.issuer,
            audience=self.audience,
            tenant=self.tenant,
            tenant_claim=self.tenant_claim,
            tenants=self.tenants,
            user_claim=self.user_claim,
            scopes=self.scopes,
            scope_claim=self.scope_claim,
            scopes_by_value=self.scopes_by_value,
            algorithms=self.algorithms,
        )
