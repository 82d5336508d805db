"""Hostile programs: each runs in a real sandbox and must not get what it wants."""

import textwrap

import pytest

PRELUDE = """
import ctypes, errno, os, sys
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *args):
    ctypes.set_errno(0)
    words = [a if isinstance(a, (bytes, type(None))) else ctypes.c_long(a) for a in args]
    got = libc.syscall(ctypes.c_long(number), *words)
    return "allowed" if got >= 0 else errno.errorcode[ctypes.get_errno()]
def tried(work):
    try:
        return "allowed", work()
    except OSError as error:
        return errno.errorcode.get(error.errno, error.errno)
"""


@pytest.fixture
def attack(embedded, sandbox):
    """Run a Python program of the attacker's; `call` and `tried` are there for it."""

    async def run(script, **options):
        return await embedded.python(sandbox, PRELUDE + textwrap.dedent(script), **options)

    return run


@pytest.fixture
def shell(embedded, sandbox):
    """Run a shell script of the attacker's."""

    async def run(script, **options):
        return await embedded.sh(sandbox, script, **options)

    return run
