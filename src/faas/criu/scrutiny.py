"""What is looked at before, during and after a memory checkpoint, all from outside."""

from collections.abc import Mapping
from pathlib import Path

from faas.agent.moving import Exported
from faas.criu import processes
from faas.criu.memory import Tree
from faas.criu.site import Site
from faas.errors import SandboxBrokenError, UnsupportedError, WrongStateError

_NOT_KEPT = ("/run/", "/dev/shm/")  # noqa: S108  the sandbox's own
_GPU = ("/dev/nvidia", "/dev/dri/", "/dev/kfd")


def examine(init: int, commands: Mapping[str, Exported]) -> set[int]:
    """Refuse what CRIU would fail at late; return the processes that are stopped already."""
    seen = processes.below(init)
    for one in seen:
        for _, target in processes.descriptors(one.pid):
            _refuse(target)
    _refuse_shared_pipes(seen, commands)
    return {one.inner_pid for one in seen if one.state == "T"}


def _refuse(target: str) -> None:
    if target.startswith(_GPU):
        raise UnsupportedError(
            "the memory cannot be kept: it uses a GPU", hint="keep the files only (memory: false)"
        )
    if target.startswith(_NOT_KEPT) and not target.endswith(" (deleted)"):
        raise UnsupportedError(
            f"the memory cannot be kept: it has {target[:100]} open, and files there are not kept",
            hint="put the file below /tmp, or keep the files only (memory: false)",
        )


def _refuse_shared_pipes(seen: list[processes.Seen], commands: Mapping[str, Exported]) -> None:
    """Each tree is taken by itself: a pipe between two would be torn without a word."""
    known = {
        f"pipe:[{n}]"
        for c in commands.values()
        for n in (c.stdin_pipe, c.stdout_pipe, c.stderr_pipe)
    }
    roots = {root for command in commands.values() for root in command.roots}
    tree_of: dict[int, int] = {}
    owner: dict[str, int] = {}
    for one in seen:
        own = one.pid if one.inner_pid in roots else tree_of.get(one.parent)
        if own is None:
            continue
        tree_of[one.pid] = own
        for _, target in processes.descriptors(one.pid):
            is_private = target.startswith("pipe:") and target not in known
            if is_private and owner.setdefault(target, own) != own:
                raise UnsupportedError(
                    "the memory cannot be kept: processes that were left behind share a pipe",
                    hint="keep the files only (memory: false), or keep their parent alive",
                )


def all_taken(init: int, target: Path, trees: list[Tree], commands: Mapping[str, Exported]) -> int:
    """Check that nothing of the sandbox was left out; return the highest number in it."""
    roots = {tree.root for tree in trees}
    if roots != {root for command in commands.values() for root in command.roots}:
        raise WrongStateError(
            "a command began or ended while the memory was taken", hint="try again"
        )
    taken = {
        int(path.name.removeprefix("core-").removesuffix(".img"))
        for tree in trees
        for path in (target / tree.folder).glob("core-*.img")
    }
    alive = processes.below(init)
    ours = {one.pid for one in alive if one.parent == init and processes.is_ours(one.pid, init)}
    strange = [
        x for x in alive if x.state != "Z" and x.inner_pid not in taken and x.pid not in ours
    ]
    if strange:
        raise UnsupportedError(
            "the memory cannot be kept: processes run that no running command has begun",
            hint="end what former commands left in the background, or keep the files only",
            details={"processes": len(strange)},
        )
    return processes.inner_pid_max(init)


def inspect(site: Site) -> None:
    """Whatever the images said: nobody in the sandbox has any power."""
    for one in processes.below(site.init):
        if one.state != "Z" and has_power(one.pid, site.user):
            raise SandboxBrokenError("a restored process has more power than it may have")


def has_power(pid: int, user: int) -> bool:
    """Whether a process can do more than one of that user alone can, under a filter."""
    has = processes.privileges(pid)
    if not has:
        return False  # it is gone
    users = set(has.get("Uid", "").split()) | set(has.get("Gid", "").split())
    powers = {value for name, value in has.items() if name.startswith("Cap")}
    is_bound = has.get("NoNewPrivs") == "1" and has.get("Seccomp") == "2"
    is_alone = users == {str(user)} and not has.get("Groups")
    return not is_alone or powers != {"0" * 16} or not is_bound
