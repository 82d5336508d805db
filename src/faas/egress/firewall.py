"""Loads the rules into the kernel by the host's own programs, in the namespace of the caller."""

import shutil
import subprocess

from faas.errors import RuntimeUnavailableError

_SECONDS_MAX = 20.0
"""They take milliseconds; a host that is swapping may need longer."""


def is_installed() -> bool:
    """Whether this host has what `load` needs."""
    return shutil.which("nft") is not None


def load(ruleset: str) -> None:
    """Load a table for `nft`, all or nothing.

    Raises:
        RuntimeUnavailableError: the kernel or the program refused.
    """
    done = _run("nft", "-f", "-", given=ruleset)
    if done.returncode != 0:
        raise RuntimeUnavailableError(
            "the rules of the network egress could not be loaded",
            hint="apt-get install nftables; the kernel needs nf_tables with NAT and connlimit",
            details={"nft": done.stderr.strip()[:300]},
        )


def remove(table: str) -> None:
    """Remove a table. Harmless when it is gone."""
    _run("nft", "delete", "table", "inet", table)


def permit(bridge: str) -> None:
    """Let the host forward for us where its own rules refuse by default, as Docker's do.

    Our own table has refused before what must not pass; these rules only keep the rest alive.
    """
    if not _refuses_by_default():
        return
    for rule in _permissions(bridge):
        if _run("iptables", "-w", "-C", "FORWARD", *rule).returncode != 0:
            _run("iptables", "-w", "-I", "FORWARD", *rule)


def withdraw(bridge: str) -> None:
    """Take back what `permit` did. Harmless when it did nothing."""
    if shutil.which("iptables") is None:
        return
    for rule in _permissions(bridge):
        _run("iptables", "-w", "-D", "FORWARD", *rule)


def _refuses_by_default() -> bool:
    if shutil.which("iptables") is None:
        return False
    return "-P FORWARD DROP" in _run("iptables", "-w", "-S", "FORWARD").stdout


def _permissions(bridge: str) -> list[list[str]]:
    answers = ["-m", "conntrack", "--ctstate", "RELATED,ESTABLISHED"]
    return [["-i", bridge, "-j", "ACCEPT"], ["-o", bridge, *answers, "-j", "ACCEPT"]]


def _run(*argv: str, given: str = "") -> "subprocess.CompletedProcess[str]":
    try:
        return subprocess.run(
            argv, input=given, capture_output=True, text=True, timeout=_SECONDS_MAX, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as failure:
        return subprocess.CompletedProcess(argv, 127, "", str(failure))
