"""The `missive` command: its subcommands, and the translation of errors to lines and exit codes."""

from __future__ import annotations

import sys

import click

from missive import _signals
from missive.cli import routing
from missive.cli.command import Group
from missive.cli.config import config
from missive.cli.dlq import dlq
from missive.cli.doctor import doctor
from missive.cli.output import hint
from missive.cli.run import run
from missive.engine.streams import flush_output
from missive.errors import MissiveError, UsageError
from missive.version import VERSION


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(VERSION, prog_name="missive")
def cli() -> None:
    """Run message handlers on any transport, and work on their dead letters.

    TARGET is module:name or path/to/file.py:name, and names a missive.Processor or an adapter.
    """


for _command in (run, *routing.COMMANDS, config, dlq, doctor):
    cli.add_command(_command)


def main() -> None:
    """Run the command line. Print every error as one line on standard error, and exit with its code."""
    if sys.argv[1:2] == ["run"]:  # started in an unusual way, not recognized at the first import
        _signals.hold()
    try:
        code = cli.main(standalone_mode=False)
    except click.UsageError as error:
        where = f" (see {error.ctx.command_path} --help)" if error.ctx is not None else ""
        _end(f"{error.format_message()}{where}", 2)
    except click.Abort:
        _end("stopped", 1)
    except click.ClickException as error:
        _end(error.format_message(), 2)
    except UsageError as error:
        _end(str(error), 2, getattr(error, "stack", ""))
    except MissiveError as error:
        _end(str(error), 1)
    except BrokenPipeError:  # the reader of the output, such as `head`, is done
        code = 0
    flush_output()
    code = code if isinstance(code, int) else 0
    _signals.leave(code)
    sys.exit(code)


def _end(line: str, code: int, stack: str = "") -> None:
    flush_output()
    hint(" ".join(line.split()), stack)
    _signals.leave(code)
    sys.exit(code)
