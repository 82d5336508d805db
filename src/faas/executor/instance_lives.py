"""The instances of one gateway that are alive, by id, by name and by sandbox."""

from faas.errors import InstanceNotFoundError, QuotaExceededError
from faas.executor.instance_life import Life
from faas.ids import InstanceId, SandboxId
from faas.sandbox.guarded import GuardedSandbox
from faas.tenancy import Tenant


class Lives(dict[InstanceId, Life]):
    """By id; found as their tenant may name them."""

    def named(self, reference: str, tenant: Tenant) -> Life | None:
        """Find a tenant's instance by its id or its name."""
        life = self.get(InstanceId(reference))
        if life is None:
            named = (
                x
                for x in self.values()
                if x.record.tenant == tenant.id and x.record.spec.name == reference
            )
            life = next(named, None)
        return life if life is not None and life.record.tenant == tenant.id else None

    def of(self, reference: str, tenant: Tenant) -> Life:
        """Return it.

        Raises:
            InstanceNotFoundError: there is none, or it is another tenant's.
        """
        life = self.named(reference, tenant)
        if life is None:
            raise InstanceNotFoundError(details={"instance_id": reference[:64]})
        return life

    def check_room(self, tenant: Tenant, most: int) -> None:
        """Refuse one more than a tenant may have.

        Raises:
            QuotaExceededError: there are so many.
        """
        own = sum(x.record.tenant == tenant.id for x in self.values())
        if own >= most:
            raise QuotaExceededError(
                f"this tenant has {own} instances already",
                hint="delete one first",
                details={"instances_max": most},
            )

    def sandbox_ids(self) -> set[SandboxId]:
        """Name every sandbox that must outlive this gateway."""
        return {x.sandbox.id for x in self.values() if x.sandbox is not None}

    def sandbox(self, sandbox_id: SandboxId) -> GuardedSandbox | None:
        """Return an instance's sandbox by its id."""
        found = (x.sandbox for x in self.values() if x.sandbox is not None)
        return next((sandbox for sandbox in found if sandbox.id == sandbox_id), None)
