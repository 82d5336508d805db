"""Small readers of what the gateway answers, shared by both twins."""

from __future__ import annotations

from typing import Any, Dict, List, Mapping, cast
from urllib.parse import quote

import httpx

from faas_sdk._errors import ProtocolError
from faas_sdk._request import ExecuteOptions, MoreOptions


def merged(positional: Mapping[str, Any], options: MoreOptions) -> ExecuteOptions:
    """Join what was given by place with what was given by name."""
    given: Any = {**options, **present(positional)}
    return given


def present(values: Mapping[str, Any]) -> Dict[str, Any]:
    """Drop what was not given."""
    return {name: value for name, value in values.items() if value is not None}


def segment(identifier: str) -> str:
    """Make an id safe as one piece of a path."""
    return quote(identifier, safe="")


def json_of(response: httpx.Response) -> Any:
    """Read the body.

    Raises:
        ProtocolError: it is not JSON.
    """
    if not response.content:
        return {}
    try:
        return response.json()
    except ValueError as error:
        raise ProtocolError(
            f"the answer to {response.request.method} {response.request.url.path} is not JSON",
            hint="check that base_url is the gateway's",
        ) from error


def object_of(answer: Any) -> Dict[str, Any]:
    """Expect a JSON object.

    Raises:
        ProtocolError: it is something else.
    """
    if not isinstance(answer, dict):
        raise ProtocolError("the answer is not a JSON object")
    return cast("Dict[str, Any]", answer)


def listed(answer: Any, name: str) -> List[Dict[str, Any]]:
    """Expect a list, bare or under its name.

    Raises:
        ProtocolError: there is none.
    """
    found = object_of(answer).get(name) if isinstance(answer, dict) else answer
    if not isinstance(found, list):
        raise ProtocolError(f"the answer lists no {name}")
    return cast("List[Dict[str, Any]]", found)
