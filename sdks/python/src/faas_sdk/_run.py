"""One line for one run."""

from __future__ import annotations

from typing import Optional

from faas_sdk._client import FaaSClient
from faas_sdk._languages import LANGUAGES, CodeCommand


async def run(code: str, language: str = "python", base_url: Optional[str] = None) -> str:
    """Run code and return what it printed; a language that is none of ours makes `code` a command.

    Raises:
        CommandFailedError: it failed, and printing nothing would hide it.
    """
    make = LANGUAGES.get(language.lower())
    command = CodeCommand([], None, {}) if make is None else make(code)
    async with FaaSClient(base_url) as client:
        result = await client.execute(
            command.argv or code, command.image, files=dict(command.files) or None
        )
    return result.raise_for_exit().output
