"""How strongly a sandbox is kept from the host: one ladder, and where a sandbox's label stands.

A request names the least rung it accepts (`ExecutionSpec.isolation_min`). What would stand lower is
refused; nothing is ever lowered. `docs/explanation/isolation.md` says what each rung keeps apart.
"""

from faas.errors import InvalidArgumentError

ISOLATION_LADDER = ("none", "container", "userns", "gvisor", "microvm")
"""From weakest to strongest: shared with the host; namespaces whose root is the host's root;
namespaces whose root is nobody on the host; system calls answered by a kernel in user space; a
kernel of its own."""


def isolation_rank(label: str) -> int:
    """Return the rung of `ISOLATION_LADDER` that a sandbox's own label stands on."""
    for word in ("microvm", "gvisor", "userns"):
        if word in label:
            return ISOLATION_LADDER.index(word)
    if "namespaces" in label or "docker" in label or "container" in label:
        return ISOLATION_LADDER.index("container")
    return 0


def reaches(label: str, isolation_min: str | None) -> bool:
    """Whether a label stands at least on that rung; no rung demanded is always reached.

    Raises:
        InvalidArgumentError: there is no such rung.
    """
    return isolation_min is None or isolation_rank(label) >= rung(isolation_min)


def rung(isolation_min: str) -> int:
    """Return the place of a demanded rung on the ladder.

    Raises:
        InvalidArgumentError: there is no such rung.
    """
    if isolation_min not in ISOLATION_LADDER:
        raise InvalidArgumentError(
            f"{isolation_min!r} is not an isolation level",
            details={"supported": list(ISOLATION_LADDER)},
        )
    return ISOLATION_LADDER.index(isolation_min)
