"""Credentials that `docker login` stored: in its file, or with a helper the file names.

They are read at each pull, so that a new login counts at once, and kept nowhere. Nothing of them is
ever logged or told: a broken file is said to be broken, without what it holds.
"""

import asyncio
import base64
import binascii
import logging
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from faas.sandbox.image_keeper import RegistryLogin

_FILE_BYTES_MAX = 1 << 20
_HELPER_SECONDS = 10.0
"""A helper asks a keychain, or a cloud for a token."""
_HUB_KEYS = ("https://index.docker.io/v1/", "index.docker.io", "docker.io", "registry-1.docker.io")
_HELPER_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")

_log = logging.getLogger(__name__)


class _Entry(msgspec.Struct, frozen=True):
    auth: str = ""
    username: str = ""
    password: str = ""


class _File(msgspec.Struct, frozen=True, rename="camel"):
    auths: dict[str, _Entry] = {}
    creds_store: str = ""
    cred_helpers: dict[str, str] = {}


class _Answer(msgspec.Struct, frozen=True, rename="pascal"):
    username: str
    secret: str


@dataclass(frozen=True, slots=True)
class DockerLogins:
    """The logins of one `config.json`."""

    path: Path

    async def of(self, registry: str) -> RegistryLogin | None:
        """Return the login for a registry; None when there is none that can be used."""
        file = await asyncio.to_thread(self._read)
        keys = _keys(registry)
        helper = next((file.cred_helpers[key] for key in keys if key in file.cred_helpers), "")
        if helper := helper or file.creds_store:
            for key in keys:
                if (found := await _ask(helper, key)) is not None:
                    return found
        return next((found for key in keys if (found := _stored(file.auths.get(key)))), None)

    async def all(self) -> Mapping[str, RegistryLogin]:
        """Return those that stand in the file, by registry: a build may need any of them."""
        file = await asyncio.to_thread(self._read)
        found = {key: _stored(entry) for key, entry in file.auths.items()}
        return {key: login for key, login in found.items() if login is not None}

    def _read(self) -> _File:
        try:
            with self.path.open("rb") as file:
                return msgspec.json.decode(file.read(_FILE_BYTES_MAX), type=_File)
        except OSError:
            return _File()
        except msgspec.MsgspecError:
            _log.warning("Docker's config.json cannot be read and is ignored")
            return _File()


def _keys(registry: str) -> tuple[str, ...]:
    if registry == "docker.io":
        return _HUB_KEYS
    return (registry, f"https://{registry}", f"https://{registry}/", f"http://{registry}")


def _stored(entry: _Entry | None) -> RegistryLogin | None:
    if entry is None:
        return None
    if entry.username and entry.password:
        return RegistryLogin(entry.username, entry.password)
    try:
        text = base64.b64decode(entry.auth, validate=True).decode()
    except (binascii.Error, ValueError):
        return None
    name, colon, password = text.partition(":")
    return RegistryLogin(name, password.rstrip("\0")) if colon and name else None


async def _ask(helper: str, key: str) -> RegistryLogin | None:
    """Ask a credential helper; what it says is never shown, for it may be the secret."""
    program = shutil.which(f"docker-credential-{helper}") if _HELPER_NAME.fullmatch(helper) else ""
    if not program:
        _log.warning("a credential helper of Docker's config.json is not installed")
        return None
    child = await asyncio.create_subprocess_exec(
        program,
        "get",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(_HELPER_SECONDS):
            said, _ = await child.communicate(key.encode())
    except TimeoutError:
        _log.warning("a credential helper of Docker's config.json does not answer")
        return None
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    try:
        answer = msgspec.json.decode(said, type=_Answer)
    except msgspec.MsgspecError:
        return None
    return RegistryLogin(answer.username, answer.secret) if child.returncode == 0 else None
