"""`faas config`: every setting, its value, and where the value came from."""

import click

from faas.cli import render
from faas.config import CLIENT_VARIABLES, Configuration, Settings, load

_PORTABLE = {"data_dir": "`/var/lib/faas` as root, else `~/.local/share/faas`"}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Write one JSON document.")
@click.option("--reference", is_flag=True, help="Explain every setting instead (Markdown).")
def command(*, as_json: bool, reference: bool) -> None:
    """Show every setting and where its value came from; secrets are masked."""
    if reference:
        render.data(reference_page())
        return
    configuration = load()
    for warning in configuration.warnings:
        render.say(f"warning: {warning}")
    described = configuration.describe()
    if as_json:
        render.json_data(
            {item.name: {"value": item.value, "origin": item.origin} for item in described}
        )
        return
    rows = [(item.name, item.value or "-", item.origin) for item in described]
    render.table(rows, headings=("setting", "value", "from"))


def reference_page() -> str:
    """Write the reference of all settings; `docs/reference/configuration.md` is this text."""
    lines = [
        "# Configuration",
        "",
        "A flag wins over the environment, the environment over the TOML file, the file over",
        "the default. The file is `FAAS_CONFIG`, else `./faas.toml`, else `/etc/faas/faas.toml`;",
        "its keys are the names below. `faas serve --set name=value` takes any of them. Wrong",
        "values stop the start, and all of them are listed. `faas config` shows what is in force.",
        "",
        'Lists are written `a,b` in the environment and `["a", "b"]` in TOML; tables `a=b,c=d` and',
        '`{a = "b"}`. A secret can also be read from the file named by the variable with `_FILE`',
        "added, one value a line.",
        "",
        "This page is made from the class `Settings` by `make docs`.",
        "",
        "| setting | variable | type | default | why |",
        "|---|---|---|---|---|",
    ]
    for item in Configuration(Settings(), {}).describe():
        kind = f"{item.kind}, {item.bounds}" if item.bounds else item.kind
        default = _PORTABLE.get(item.name, f"`{item.value}`" if item.value else "(none)")
        name = f"`{item.variable}`" + (f", `{item.variable}_FILE`" if item.is_secret else "")
        lines.append(f"| `{item.name}` | {name} | {kind} | {default} | {item.why} |")
    return "\n".join([*lines, "", *_client_section()])


def _client_section() -> list[str]:
    lines = ["The command line itself reads:", "", "| variable | meaning |", "|---|---|"]
    return lines + [f"| `{name}` | {why} |" for name, why in CLIENT_VARIABLES.items()]
