"""A command line once more: what was given to a command, as arguments for another process."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import click
from click.core import ParameterSource


def given(command: click.Context, *, without: Collection[str] = ()) -> list[str]:
    """Return the arguments with which a command was called, save some; what is in the environment is there anyway."""
    options: list[str] = []
    arguments: list[str] = []
    for parameter in command.command.params:
        name = parameter.name or ""
        value: Any = command.params.get(name)
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
