"""The command `faas`: nouns and verbs, loaded only when used, so that `--help` is quick.

Data goes to stdout, words to stderr. Errors are one sentence and a hint; the exit code says who
must act (`faas.cli.exits`).
"""

import importlib
import sys

import click

from faas import __version__

COMMANDS = {
    "serve": "Start the gateway in the foreground.",
    "run": "Run a command in a fresh sandbox, stream its output, exit with its code.",
    "fork": "Run commands side by side, each in a copy of what a parent left behind.",
    "race": "The same, until the first passes; the others are ended.",
    "executions": "List, show, cancel or checkpoint executions.",
    "instance": "Make, use and delete instances: sandboxes that stay.",
    "snapshot": "Keep, list, compare, merge, restore, move and delete snapshots.",
    "logs": "Print what an execution wrote; -f follows it.",
    "pools": "Show the warm pools: what each holds, and why.",
    "prewarm": "Have sandboxes of an image ready before they are asked for.",
    "images": "List, import, pull, build or remove images.",
    "doctor": "Try each runtime for real; say what is missing and how to get it.",
    "config": "Show every setting and where its value came from.",
    "operator": "Run the jobs of a Tangle service and hand in their results.",
    "receipt": "Check what operators signed for with their results.",
    "chain": "Run a development chain; check a real one.",
    "bench": "Measure this machine: echo from the pool, on demand, and the floor.",
}


class _LazyGroup(click.Group):
    """Imports a command's module when it is asked for, not before."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"faas.cli.{cmd_name}")
        return module.command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as failure:
            import difflib

            near = difflib.get_close_matches(args[0], COMMANDS, n=1)
            more = f" Did you mean {near[0]}?" if near else ""
            raise click.UsageError(failure.message + more, ctx) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="faas")
def faas() -> None:
    """Run other people's code on your own machine, isolated, in milliseconds."""


def main() -> None:
    """Run the command line and exit."""
    try:
        code = faas.main(standalone_mode=False)
    except click.exceptions.Exit as leave:
        code = leave.exit_code
    except click.Abort:
        code = 130
    except click.ClickException as failure:
        code = _show_usage(failure)
    except BrokenPipeError:
        # The reader left (`| head`): that is no error, and nothing more can be written.
        sys.stderr.close()
        code = 0
    except ModuleNotFoundError as missing:
        code = _show_missing(missing)
    except Exception as failure:
        from faas.cli import render
        from faas.errors import FaasError

        if not isinstance(failure, FaasError):
            raise
        code = render.show_error(failure)
    sys.exit(code if isinstance(code, int) else 0)


def _show_missing(missing: ModuleNotFoundError) -> int:
    """Say which extra brings a package that is not installed; our own modules are never missing."""
    package = (missing.name or "").partition(".")[0]
    if package in {"", "faas"}:
        raise missing
    from faas.cli import render
    from faas.errors import UnsupportedError

    extra = {"aiodocker": "docker", "obstore": "s3"}.get(package, "tangle")
    return render.show_error(
        UnsupportedError(
            f"this needs the Python package {package}, which is not installed",
            hint=f"pip install 'faas-platform[{extra}]'; in a clone: make dev",
        )
    )


def _show_usage(failure: click.ClickException) -> int:
    from faas.cli import render
    from faas.errors import InvalidArgumentError

    context = failure.ctx if isinstance(failure, click.UsageError) else None
    hint = f"{context.command_path} --help" if context else "faas --help"
    return render.show_error(InvalidArgumentError(failure.format_message(), hint=hint))
