"""What users give a job, in the forms that calls take."""

from __future__ import annotations

from dataclasses import replace
from typing import Mapping, Sequence, Tuple, Union

from faas_sdk._errors import InvalidArgumentError
from faas_sdk.tangle._carried import Reference, unpack
from faas_sdk.tangle._codec import ExecuteAdvanced, ExecuteFunction, JobCall, UploadFiles

PayloadLike = Union[bytes, Reference]
CommandLike = Union[str, Sequence[str]]
EnvironmentLike = Union[Mapping[str, str], Sequence[str], None]


def raw_call(call: JobCall) -> JobCall:
    """Take back the form that data of a call ride in: a box carries them as they are."""
    if isinstance(call, UploadFiles):
        return replace(call, archive=raw_data(call.archive))
    if isinstance(call, (ExecuteFunction, ExecuteAdvanced)):
        return replace(call, payload=raw_data(call.payload))
    return call


def raw_data(field: bytes) -> bytes:
    """Take the data out of the form they ride in.

    Raises:
        InvalidArgumentError: it is a reference.
    """
    data = unpack(field)
    if not isinstance(data, bytes):
        raise InvalidArgumentError("a reference is not sealed: seal what it leads to")
    return data


def as_command(command: CommandLike) -> Tuple[str, ...]:
    """Take a list as it is, and a string to a shell.

    Raises:
        InvalidArgumentError: it is empty.
    """
    if not command:
        raise InvalidArgumentError("the command is empty")
    return ("sh", "-c", command) if isinstance(command, str) else tuple(command)


def as_environment(env: EnvironmentLike) -> Tuple[str, ...]:
    """Take a mapping, or NAME=VALUE entries.

    Raises:
        InvalidArgumentError: an entry is none.
    """
    if env is None:
        return ()
    if isinstance(env, Mapping):
        return tuple(f"{name}={value}" for name, value in env.items())
    for entry in env:
        if "=" not in entry[1:]:
            raise InvalidArgumentError(f"{entry!r} is not NAME=VALUE")
    return tuple(env)
