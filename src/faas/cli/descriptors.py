"""How many files this process may have open: as many as the machine lets it.

A sandbox takes six descriptors, a connection one. The usual soft limit of 1,024 is there for
programs that use `select`, and would end at some 150 sandboxes.
"""

import resource


def raise_limit() -> None:
    """Raise the soft limit to the hard one; sandboxes have limits of their own."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
