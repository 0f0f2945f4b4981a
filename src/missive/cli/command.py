"""The base of the commands: options that choose the configuration file, and values from this file."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any, ClassVar

import click

from missive.cli import options
from missive.cli.configuration import Configuration, load_configuration, load_env_file, setting_name
from missive.errors import UsageError

_OF_TARGET = frozenset({"target", "sources", "name", "factory"})
"""Settings about a target. They serve commands whose argument is the target."""
_OF_STORE = frozenset({"dlq", "env-file", "app-dir"})


class Command(click.Command):
    """A command whose parameters may have values in the configuration file.

    Flags win over environment variables, and environment variables over the file.
    """

    every_setting: ClassVar[bool] = False
    """Whether all settings serve the command. The others take only the target, its sources, and the store."""

    target_needed: ClassVar[bool] = True
    """Whether the command needs the target that it declares."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        names = {parameter.name for parameter in self.params}
        if "target" in names:
            self.params.append(_option("--app-dir", metavar="DIR", help="Import the application from DIR."))
        if names & {"target", "dlq_url"}:
            self.params += [
                _option("--config", "config_file", metavar="FILE", help="Read settings from FILE."),
                _option("--env", "environment", metavar="NAME", help="Use the settings of an environment."),
                _option("--env-file", metavar="FILE", help="Set environment variables from FILE."),
            ]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments, with the configuration file as the source of defaults."""
        if not ctx.resilient_parsing and any(parameter.name == "config_file" for parameter in self.params):
            args = self._configure(ctx, list(args))
        rest = super().parse_args(ctx, args)
        if self.target_needed and "target" in self._arguments() and ctx.params.get("target") is None:
            raise click.UsageError("name a TARGET, such as app:proc, or set target in missive.toml", ctx)
        if (directory := chosen(ctx, "app_dir")) is not None:
            _import_from(directory)
        return rest

    def _arguments(self) -> list[str]:
        return [parameter.name or "" for parameter in self.params if isinstance(parameter, click.Argument)]

    def _configure(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the configuration file and the file of environment variables. Return the arguments to parse."""
        given, _, _ = self.make_parser(ctx).parse_args(list(args))
        if any(arg in self.get_help_option_names(ctx) for arg in args):
            return args
        file, environment = self._early(given, "config_file"), self._early(given, "environment")
        configuration = load_configuration(file, environment, _known())
        defaults = configuration.defaults(self._configured())
        if isinstance(given.get("target"), str):  # the file describes another target
            defaults.pop("factory", None)
        ctx.meta[_CONFIGURATION] = configuration
        env_file = self._early(given, "env_file") or defaults.get("env_file")
        if env_file is not None:
            ctx.meta[_FROM_ENV_FILE] = (env_file, load_env_file(env_file))
        ctx.default_map = defaults
        arguments = self._arguments()
        if len(arguments) > 1 and arguments[0] == "target" and not isinstance(given.get(arguments[-1]), str):
            setting = configuration.settings.get("target")
            if setting is not None and isinstance(given.get("target"), str):
                return [setting.value, *args]  # the only argument is the second one
        return args

    def _early(self, given: dict[str, Any], name: str) -> str | None:
        """Return the value of a parameter before the others are parsed, or None."""
        value = given.get(name)
        if isinstance(value, str):
            return value
        return next((os.environ.get(str(one.envvar)) or None for one in self.params if one.name == name), None)

    def _configured(self) -> list[click.Parameter]:
        """Return the parameters that take a value from the file."""
        served = _OF_STORE | _OF_TARGET if "target" in self._arguments() else _OF_STORE
        return [one for one in self.params if self.every_setting or setting_name(one) in served]


class Group(click.Group):
    """A group of commands. Without a command, the help is printed as an error."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments. Without any, print the help and exit with code 2."""
        if not args and not ctx.resilient_parsing:
            click.echo(ctx.get_help(), err=True)
            ctx.exit(2)
        return super().parse_args(ctx, args)


class RunCommand(Command):
    """A command that takes every setting of the file."""

    every_setting = True


_CONFIGURATION, _FROM_ENV_FILE = "missive.configuration", "missive.variables"


def _option(*names: str, **settings: Any) -> click.Option:
    settings |= {"envvar": options.variable(names[0]), "show_envvar": True, "expose_value": False}
    return click.Option([*names], callback=_remember, **settings)


def _remember(ctx: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    ctx.meta[f"missive.{parameter.name}"] = value
    return value


def chosen(ctx: click.Context, name: str) -> str | None:
    """Return the value of an option that every command has, such as `app_dir`."""
    value: str | None = ctx.meta.get(f"missive.{name}")
    return value


def configuration_of(ctx: click.Context) -> Configuration:
    """Return the configuration of a command that is being run."""
    configuration: Configuration = ctx.meta[_CONFIGURATION]
    return configuration


def env_file_of(ctx: click.Context) -> tuple[str, Collection[str]]:
    """Return the file of environment variables, and the variables that came from it."""
    found: tuple[str, Collection[str]] = ctx.meta.get(_FROM_ENV_FILE, ("", ()))
    return found


def _known() -> set[str]:
    """Return the names of all settings, which are the parameters of `missive run`."""
    from missive.cli.run import run  # noqa: PLC0415 - its class is here

    return {name for parameter in run.params if (name := setting_name(parameter))}


def _import_from(directory: str) -> None:
    path = Path(directory)
    if not path.is_dir():
        raise UsageError(f"--app-dir: there is no directory {directory}")
    sys.path.insert(0, str(path.absolute()))
