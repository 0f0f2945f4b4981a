"""`missive config`: the settings that `missive run` would use, and where each comes from."""

from __future__ import annotations

from typing import Any

import click
from click.core import ParameterSource

from missive.cli import options
from missive.cli.command import RunCommand, chosen, configuration_of, env_file_of
from missive.cli.configuration import setting_name
from missive.cli.output import show_json, show_table
from missive.cli.run import run
from missive.privacy import redact_url

_URLS = frozenset({"sources", "dlq"})


class ConfigCommand(RunCommand):
    """A command that takes the options of `missive run`, and no target is needed."""

    target_needed = False


@click.command(cls=ConfigCommand, params=[one for one in run.params if setting_name(one) and one.expose_value])
@options.as_json
@click.pass_context
def config(command: click.Context, /, as_json: bool, **values: Any) -> None:
    """Show the settings of `missive run`, and where each comes from.

    A setting comes from a flag, an environment variable, the configuration file, or its default. Users and passwords
    in URLs are masked. The command takes the options of `missive run`. It imports no application and opens no source.

    \b
      missive config
      missive config --env production
    """  # noqa: D301 - \b is click's
    rows = []
    for parameter in command.command.params:
        name = setting_name(parameter)
        if name:
            value = values.get(parameter.name or "", chosen(command, parameter.name or ""))
            rows.append({"setting": name, "value": _masked(name, value), "origin": _origin(command, parameter)})
    if as_json:
        show_json(rows)
        return
    show_table(["SETTING", "VALUE", "ORIGIN"], [(one["setting"], _text(one["value"]), one["origin"]) for one in rows])


def _masked(name: str, value: Any) -> Any:
    if name not in _URLS or value is None:
        return value
    return redact_url(value) if isinstance(value, str) else [redact_url(one) for one in value]


def _text(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(value) or "-"
    if isinstance(value, bool):
        return "true" if value else "false"
    return "-" if value is None else str(value)


def _origin(command: click.Context, parameter: click.Parameter) -> str:
    source = command.get_parameter_source(parameter.name or "")
    if source is ParameterSource.COMMANDLINE:
        return "argument" if isinstance(parameter, click.Argument) else parameter.opts[0]
    if source is ParameterSource.ENVIRONMENT:
        file, names = env_file_of(command)
        variable = str(parameter.envvar)
        return f"{file}: {variable}" if variable in names else variable
    setting = configuration_of(command).settings.get(setting_name(parameter))
    return setting.origin if source is ParameterSource.DEFAULT_MAP and setting is not None else "default"
