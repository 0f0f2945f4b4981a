"""A command's own arguments, rebuilt for a child process."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import click
from click.core import ParameterSource

from missive.cli.command import chosen


def rebuild_argv(command: click.Context, *, without: Collection[str] = ()) -> list[str]:
    """Return the arguments of the current command line, except the parameters named in `without`.

    Leave out values from the environment, because a child process inherits them.
    """
    options: list[str] = []
    arguments: list[str] = []
    for parameter in command.command.params:
        name = parameter.name or ""
        value: Any = command.params.get(name, chosen(command, name))
        if name in without or command.get_parameter_source(name) is not ParameterSource.COMMANDLINE:
            continue
        values = value if parameter.multiple or parameter.nargs != 1 else (value,)
        if isinstance(parameter, click.Argument):
            arguments += map(str, values)
        elif isinstance(parameter, click.Option) and parameter.is_flag:
            options.append((parameter.opts if value else parameter.secondary_opts or parameter.opts)[0])
        else:
            for one in values:
                options += [parameter.opts[0], str(one)]
    return [*options, "--", *arguments]
