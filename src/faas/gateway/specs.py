"""From an `ExecuteRequest` to a `model.ExecutionSpec`: every default filled in, every rule checked.

Limits above a ceiling are refused, not lowered: the caller shall know what it gets.
"""

import base64
import binascii
import hashlib
import math
import posixpath
import re
from collections.abc import Iterable
from dataclasses import astuple
from functools import lru_cache

import msgspec

from faas.executor.images import ImageAsk
from faas.gateway.settings import GatewaySettings
from faas.gateway.strict import Faults, Partial, decode_execute
from faas.gateway.wire import Base64Payload, ExecuteRequest, FileField, RegistryAuth
from faas.images import RegistryLogin
from faas.images.order import PULL_SECONDS_MAX
from faas.model import (
    ExecutionSpec,
    FileInput,
    Limits,
    Mode,
    NetworkMode,
    PullPolicy,
    RuntimeChoice,
)

_ARGUMENT_BYTES_MAX = 131_071
"""Linux's MAX_ARG_STRLEN less the NUL: longer ones would be refused by execve."""
_COMMAND_BYTES_MAX = 900_000
"""Arguments and environment travel to the agent in one frame of at most 1 MiB."""
_NAME_BYTES_MAX = 255

_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.\-]*")
_USER = re.compile(r"(\d{1,5})(?::(\d{1,5}))?")
_ID_MAX = 65_535
_MODE_MAX = 0o7777
_OCTAL = re.compile(r"(?:0o)?[0-7]{1,4}")
_MIB = 1 << 20
_MILLIS = 1000

_RUNTIMES = {
    "auto": RuntimeChoice.AUTO,
    "embedded": RuntimeChoice.EMBEDDED,
    "docker": RuntimeChoice.DOCKER,
    "microvm": RuntimeChoice.MICROVM,
    "firecracker": RuntimeChoice.MICROVM,
}


def read_request(body: bytes, settings: GatewaySettings) -> tuple[ExecuteRequest, ExecutionSpec]:
    """Decode and check one request to execute.

    Raises:
        InvalidArgumentError: it is not right; all faults are named.
    """
    request = decode_execute(body)
    if isinstance(request, Partial):
        faults = request.faults
        _spec(_salvaged(request), settings, faults)
        faults.refuse()
    faults = Faults()
    spec = _spec(request, settings, faults)
    if faults.found:
        faults.refuse()
    return request, spec


def check(request: ExecuteRequest, settings: GatewaySettings, faults: Faults) -> ExecutionSpec:
    """Check a request made by a door of ours out of another; `faults` may hold some already.

    Raises:
        InvalidArgumentError: it is not right; all faults are named.
    """
    spec = _spec(request, settings, faults)
    faults.raise_if_any()
    return spec


def _salvaged(partial: Partial) -> ExecuteRequest:
    fields = dict(partial.fields)
    if any(path.startswith("$.command") for path, _ in partial.faults.found):
        fields.setdefault("command", "true")  # told already
    return ExecuteRequest(**fields)


def digest(request: ExecuteRequest) -> str:
    """Name what was asked for, so that the same Idempotency-Key with another request is noticed.

    Whether the caller waits is no part of what it asks for: a retry may wait for what was
    submitted.
    """
    asked = request if request.wait else msgspec.structs.replace(request, wait=True)
    if asked.registry_auth is not None:
        # A digest that is stored must not be one by which a password can be guessed.
        asked = msgspec.structs.replace(asked, registry_auth=None)
    return hashlib.sha256(b"execute\0" + msgspec.json.encode(asked)).hexdigest()


def _spec(request: ExecuteRequest, settings: GatewaySettings, faults: Faults) -> ExecutionSpec:
    argv = _argv(request, faults)
    env = _env(request.env_vars, faults) if request.env_vars else ()
    mode = Mode(request.mode) if request.mode else Mode.EPHEMERAL
    _check_command_size(argv, env, faults)
    return ExecutionSpec(
        argv=argv,
        image=_plain(request.image, "$.image", faults) or _image_unsaid(request, settings),
        mode=mode,
        runtime=_RUNTIMES[request.runtime or "auto"],
        env=env,
        working_dir=_working_dir(request.working_dir, faults),
        stdin=_payload(request, faults),
        stdin_open=request.stdin_open,
        files=_files(request.files, faults) if request.files else (),
        archive=_archive(request.archive_base64, faults),
        limits=_limits(request, settings, faults),
        network=NetworkMode(request.network) if request.network else NetworkMode.NONE,
        user=_user(request.user, faults),
        tty=request.tty,
        isolation_min=_plain(request.isolation, "$.isolation", faults),
        # The original's clients send a key with every request, whatever the mode. Only mode cached
        # is ever answered from a cache, so elsewhere it asks for nothing.
        cache_key=request.cache_key if mode is Mode.CACHED else None,
        caches=tuple(dict.fromkeys(request.caches or ())),
        cache_write=request.cache_write,
        snapshot_id=request.snapshot_id,
        branch_from=request.branch_from,
        memory=request.memory,
        checkpoint_after_ms=request.checkpoint_after_ms,
        instance_id=request.instance_id,
        pull_policy=PullPolicy(request.pull_policy or settings.pull_policy),
    )


def login_of(auth: RegistryAuth | None) -> RegistryLogin | None:
    """Credentials for a registry."""
    return None if auth is None else RegistryLogin(auth.username, auth.password)


def ask_of(request: ExecuteRequest) -> ImageAsk:
    """What is said of the image that no ledger may hold."""
    ms = request.pull_timeout_ms
    return ImageAsk(login_of(request.registry_auth), PULL_SECONDS_MAX if ms is None else ms / 1000)


def _image_unsaid(request: ExecuteRequest, settings: GatewaySettings) -> str:
    """The default; a child has its parent's, which is not known here."""
    has_parent = request.branch_from is not None or request.snapshot_id is not None
    return "" if has_parent else settings.default_image


def _argv(request: ExecuteRequest, faults: Faults) -> tuple[str, ...]:
    command = request.command
    if command is None:
        has_parent = request.branch_from is not None or request.snapshot_id is not None
        if not (request.memory and has_parent):
            faults.add("$.command", "is missing")
        return ()
    if isinstance(command, str):
        _no_nul(command, "$.command", faults)
        return ("sh", "-c", command)
    if not command[0]:
        faults.add("$.command[0]", "is empty: it names the program")
    for index, argument in enumerate(command):
        _no_nul(argument, f"$.command[{index}]", faults)
    return tuple(command)


def _check_command_size(
    argv: tuple[str, ...], env: tuple[tuple[str, str], ...], faults: Faults
) -> None:
    total = 0
    for path, text in (
        *(("$.command", argument) for argument in argv),
        *(("$.env_vars", f"{name}={value}") for name, value in env),
    ):
        size = len(text.encode())
        total += size
        if size > _ARGUMENT_BYTES_MAX:
            faults.add(
                path,
                f"is {size} bytes; Linux takes at most {_ARGUMENT_BYTES_MAX} in one argument or"
                " variable. Send the text as a file (`files`) or as stdin (`payload`)",
            )
    if total > _COMMAND_BYTES_MAX:
        faults.add(
            "$.command",
            f"arguments and environment are {total} bytes together; at most {_COMMAND_BYTES_MAX}",
        )


def _env(
    given: dict[str, str] | list[tuple[str, str] | str], faults: Faults
) -> tuple[tuple[str, str], ...]:
    pairs: dict[str, str] = {}
    for path, name, value in _pairs(given, faults):
        if not _ENV_NAME.fullmatch(name):
            faults.add(
                path,
                f"{name[:64]!r} is not a name for a variable: a letter or `_`, then letters,"
                " digits, `_`, `.`, `-`",
            )
        elif _no_nul(value, path, faults):
            pairs[name] = value
    return tuple(pairs.items())


def _pairs(
    given: dict[str, str] | list[tuple[str, str] | str], faults: Faults
) -> Iterable[tuple[str, str, str]]:
    if isinstance(given, dict):
        for name, value in given.items():
            yield f"$.env_vars[{name[:64]!r}]", name, value
        return
    for index, item in enumerate(given):
        path = f"$.env_vars[{index}]"
        if not isinstance(item, str):
            yield path, *item
        elif "=" in item:
            name, _, value = item.partition("=")
            yield path, name, value
        else:
            faults.add(path, f"{item[:64]!r} has no `=`")


def _working_dir(path: str | None, faults: Faults) -> str | None:
    if path is None or not _no_nul(path, "$.working_dir", faults):
        return None
    if not path.startswith("/"):
        faults.add("$.working_dir", "must be absolute: it starts with `/`")
    elif _has_long_name(path):
        faults.add("$.working_dir", f"has a name longer than {_NAME_BYTES_MAX} bytes")
    return path


def _has_long_name(path: str) -> bool:
    return any(len(part.encode()) > _NAME_BYTES_MAX for part in path.split("/"))


def _payload(request: ExecuteRequest, faults: Faults) -> bytes | None:
    given = request.payload
    if request.payload_base64 is not None:
        if given is not None:
            faults.add("$.payload_base64", "was given beside `payload`; give one of the two")
        return decoded(request.payload_base64, "$.payload_base64", faults)
    if given is None:
        return None
    if isinstance(given, str):
        return given.encode()
    if isinstance(given, Base64Payload):
        return decoded(given.base64, "$.payload.base64", faults)
    return bytes(given)


def _files(given: list[FileField], faults: Faults) -> tuple[FileInput, ...]:
    return tuple(_file(item, f"$.files[{index}]", faults) for index, item in enumerate(given))


def _file(item: FileField, path: str, faults: Faults) -> FileInput:
    if _no_nul(item.path, f"{path}.path", faults):
        if ".." in item.path.split("/"):
            faults.add(f"{path}.path", "must not contain `..`")
        elif item.path.endswith("/") or posixpath.normpath(item.path) in (".", "/"):
            faults.add(f"{path}.path", "names a directory, not a file")
        elif _has_long_name(item.path):
            faults.add(f"{path}.path", f"has a name longer than {_NAME_BYTES_MAX} bytes")
    if (item.content is None) == (item.content_base64 is None):
        faults.add(path, "needs `content` or `content_base64`, and only one of them")
    if item.content_base64 is not None:
        content = decoded(item.content_base64, f"{path}.content_base64", faults)
    else:
        content = (item.content or "").encode()
    return FileInput(item.path, content, _mode(item.mode, f"{path}.mode", faults))


def _mode(mode: int | str, path: str, faults: Faults) -> int:
    if isinstance(mode, str):
        if _OCTAL.fullmatch(mode):
            return int(mode, 8)
        faults.add(path, f"{mode[:16]!r} is not octal permission bits such as '0755'")
        return 0
    if not 0 <= mode <= _MODE_MAX:
        faults.add(path, f"must be from 0 to {_MODE_MAX} (octal 7777)")
        return 0
    return mode


def _archive(text: str | None, faults: Faults) -> bytes | None:
    return None if text is None else decoded(text, "$.archive_base64", faults)


def decoded(text: str, path: str, faults: Faults) -> bytes:
    """Decode base64, strictly."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        faults.add(path, "is not valid base64")
        return b""


def ceilings(most: Limits) -> dict[str, float]:
    """The ceiling of each field, in the field's own unit."""
    return {
        "timeout_ms": most.timeout_ms,
        "memory_mb": most.memory_bytes // _MIB,
        "cpu_cores": most.cpu_millis / _MILLIS,
        "pids_max": most.pids_max,
        "disk_mb": most.disk_bytes // _MIB,
        "output_limit": most.output_bytes_max,
    }


def _limits(request: ExecuteRequest, settings: GatewaySettings, faults: Faults) -> Limits:
    default, most = settings.limits_default, settings.limits_max
    if _asks_for_no_limit(request):
        return _least(default, most)

    def within(field: str, unit: int, default: int, most: int) -> int:
        value: float | None = getattr(request, field)
        if value is None:
            return min(default, most)
        if value > most / unit:
            faults.add(
                f"$.{field}", f"{value} is above this gateway's ceiling of {most / unit:.15g}"
            )
            return most
        return math.ceil(value * unit)

    return Limits(
        within("timeout_ms", 1, default.timeout_ms, most.timeout_ms),
        within("memory_mb", _MIB, default.memory_bytes, most.memory_bytes),
        within("cpu_cores", _MILLIS, default.cpu_millis, most.cpu_millis),
        within("pids_max", 1, default.pids_max, most.pids_max),
        within("disk_mb", _MIB, default.disk_bytes, most.disk_bytes),
        within("output_limit", 1, default.output_bytes_max, most.output_bytes_max),
    )


def _asks_for_no_limit(request: ExecuteRequest) -> bool:
    return (
        request.timeout_ms is None
        and request.memory_mb is None
        and request.cpu_cores is None
        and request.pids_max is None
        and request.disk_mb is None
        and request.output_limit is None
    )


@lru_cache(maxsize=8)
def _least(default: Limits, most: Limits) -> Limits:
    return Limits(*map(min, astuple(default), astuple(most)))


def _user(user: str | None, faults: Faults) -> str | None:
    if user is None:
        return None
    found = _USER.fullmatch(user)
    if not found or any(int(part) > _ID_MAX for part in found.groups() if part):
        faults.add("$.user", f"{user[:32]!r} is not `uid` or `uid:gid`, numbers below 65536")
    return user


def _plain(text: str | None, path: str, faults: Faults) -> str | None:
    """Refuse what no name has: blanks and control characters."""
    if text is not None and (not text.isprintable() or " " in text):
        faults.add(path, f"{text[:64]!r} has blanks or control characters")
    return text


def _no_nul(text: str, path: str, faults: Faults) -> bool:
    if "\0" in text:
        faults.add(path, "contains a NUL byte")
        return False
    return True
