"""Who asks, and what they may use."""

from dataclasses import dataclass, field
from enum import StrEnum

from faas.errors import PermissionDeniedError
from faas.ids import TenantId

DEFAULT_TENANT = TenantId("default")


class Scope(StrEnum):
    """What a key may do."""

    EXECUTE = "execute"
    READ = "read"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Quota:
    """What one tenant may use at once."""

    running_max: int = 64
    queued_max: int = 1024


@dataclass(frozen=True, slots=True)
class Tenant:
    """Who pays."""

    id: TenantId = DEFAULT_TENANT
    quota: Quota = field(default_factory=Quota)
    weight: int = 1
    """Share of the machine while several tenants wait."""


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks: a tenant, and what this key may do."""

    tenant: Tenant
    scopes: frozenset[Scope]

    def require(self, scope: Scope) -> None:
        """Refuse when the key lacks the scope.

        Raises:
            PermissionDeniedError: it does.
        """
        if scope not in self.scopes and Scope.ADMIN not in self.scopes:
            raise PermissionDeniedError(
                f"this key lacks the scope {scope.value}", details={"scope": scope.value}
            )


LOCAL_PRINCIPAL = Principal(Tenant(), frozenset({Scope.ADMIN}))
"""Whoever reaches a gateway that has no keys (loopback only)."""
