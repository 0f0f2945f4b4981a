"""The configuration file: `missive.toml`, or the table `[tool.missive]` of `pyproject.toml`.

The names of settings are the names of the options of `missive run`, without the dashes. `sources` is `--from`.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from missive.errors import MissingExtra, UsageError

FILE, SHARED_FILE = "missive.toml", "pyproject.toml"
TABLE = "tool.missive"
"""The table of the shared file."""
ENVIRONMENTS = "environments"
"""The table that has a table of settings for each environment."""
_NOT_SETTINGS = frozenset({"as_json", "config_file", "environment", "reveal", "why"})
"""Parameters that a file cannot set: they choose the file, the form of the output, or the view of content."""


@dataclass(frozen=True)
class Setting:
    """One value of a configuration file."""

    value: Any
    origin: str
    """The file, and the table of the environment."""


@dataclass(frozen=True)
class Configuration:
    """The settings of a configuration file for one environment. Empty when there is no file."""

    settings: Mapping[str, Setting] = field(default_factory=dict)

    def defaults(self, parameters: Iterable[click.Parameter]) -> dict[str, Any]:
        """Return the values for the parameters of a command, by the names of the parameters.

        Raise `UsageError` for a value that a parameter does not take.
        """
        found: dict[str, Any] = {}
        for parameter in parameters:
            setting = self.settings.get(setting_name(parameter))
            if setting is not None and parameter.name is not None:
                found[parameter.name] = _checked(parameter, setting)
        return found


def setting_name(parameter: click.Parameter) -> str:
    """Return the name of the setting for a parameter, or an empty text where a file cannot set the parameter."""
    if parameter.name in _NOT_SETTINGS:
        return ""
    if isinstance(parameter, click.Argument):
        return parameter.name or ""
    if parameter.name == "sources":
        return "sources"
    return next((name[2:] for name in parameter.opts if name.startswith("--")), "")


def load_configuration(path: str | None, environment: str | None, known: Collection[str]) -> Configuration:
    """Read the configuration file, and return its settings for an environment.

    `path` names the file; the default is the one in the working directory, if there is one. `known` are the names of
    settings. Raise `UsageError` for a file that cannot be read, an unknown setting, and an unknown environment.
    """
    where, table = _read(Path(path)) if path is not None else _find()
    if not where:
        if environment is not None:
            raise UsageError(
                f"there is no environment {environment}: the working directory has no {FILE}, and no"
                f" {SHARED_FILE} with [{TABLE}]"
            )
        return Configuration()
    environments = table.pop(ENVIRONMENTS, {})
    if not isinstance(environments, dict) or not all(isinstance(one, dict) for one in environments.values()):
        raise UsageError(f"{where}: {ENVIRONMENTS} holds a table for each environment, such as [{ENVIRONMENTS}.test]")
    settings = _settings(table, where, known)
    tables = {name: _settings(own, f"{where} [{ENVIRONMENTS}.{name}]", known) for name, own in environments.items()}
    if environment is not None:
        if environment not in tables:
            raise UsageError(f"{where} has no environment {environment}{suggestion(environment, tables)}")
        settings |= tables[environment]
    return Configuration(settings)


def suggestion(name: str, known: Collection[str]) -> str:
    """Return the end of an error about an unknown name: the nearest known name, or else all of them."""
    nearest = difflib.get_close_matches(name.replace("_", "-"), known, n=1)
    if nearest:
        return f": did you mean {nearest[0]}?"
    return f"; the known names are {', '.join(sorted(known))}" if known else ""


def load_env_file(path: str) -> list[str]:
    """Set environment variables from a file. Variables that are set already stay. Return the names of the new ones.

    A `${NAME}` inside a value stays as it is. Missive replaces it where a URL is opened. Raise `UsageError`.
    """
    try:
        from dotenv import dotenv_values  # noqa: PLC0415 - an extra
    except ModuleNotFoundError:
        raise MissingExtra("--env-file", "dotenv") from None
    if not Path(path).is_file():
        raise UsageError(f"--env-file: there is no file {path}")
    try:
        values = dotenv_values(path, interpolate=False)
    except (OSError, ValueError) as error:
        raise UsageError(f"--env-file: {path} cannot be read: {_cause(error)}") from None
    new = {name: value for name, value in values.items() if value is not None and name not in os.environ}
    os.environ.update(new)
    return list(new)


def _find() -> tuple[str, dict[str, Any]]:
    """Return the name and settings of the configuration file in the working directory, or an empty name."""
    own = _read(Path(FILE)) if Path(FILE).exists() else ("", {})
    shared = _read(Path(SHARED_FILE)) if Path(SHARED_FILE).exists() else ("", {})
    if own[0] and shared[0]:
        raise UsageError(f"{FILE} and [{TABLE}] in {SHARED_FILE} both configure Missive: keep one, or use --config")
    return own if own[0] else shared


def _read(path: Path) -> tuple[str, dict[str, Any]]:
    """Return the name and settings of a file. The name is empty when a shared file has no settings for Missive."""
    import tomllib  # noqa: PLC0415 - most commands find no file

    try:
        content = tomllib.loads(path.read_bytes().decode())
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read: {_cause(error)}") from None
    if path.name != SHARED_FILE:
        return str(path), content
    tool = content.get("tool", {})
    table = tool.get("missive", None) if isinstance(tool, dict) else None
    if table is not None and not isinstance(table, dict):
        raise UsageError(f"{path}: [{TABLE}] is a table of settings")
    return ("", {}) if table is None else (f"{path} [{TABLE}]", table)


def _cause(error: OSError | ValueError) -> str:
    if isinstance(error, OSError):
        return str(error.strerror)
    return "it is not UTF-8 text" if isinstance(error, UnicodeError) else str(error)


def _settings(table: Mapping[str, Any], where: str, known: Collection[str]) -> dict[str, Setting]:
    for name in table:
        if name not in known:
            raise UsageError(f"{where} has an unknown setting {name}{suggestion(name, {*known, ENVIRONMENTS})}")
    return {name: Setting(value, where) for name, value in table.items()}


def _checked(parameter: click.Parameter, setting: Setting) -> Any:
    """Return the value of a setting as its parameter takes it. Raise `UsageError`."""
    kind, value = parameter.type, setting.value
    many = parameter.multiple
    values = value if many and isinstance(value, list) else [value]
    if isinstance(parameter, click.Option) and parameter.is_flag:
        wanted, fits = "true or false", isinstance(value, bool)
    elif isinstance(kind, click.IntRange):
        wanted, fits = "a whole number", isinstance(value, int) and not isinstance(value, bool)
    elif isinstance(kind, click.FloatRange):
        wanted, fits = "a number", isinstance(value, int | float) and not isinstance(value, bool)
    else:
        wanted = "a string, or an array of strings" if many else "a string"
        fits = all(isinstance(one, str) and one for one in values)
    name = f"{setting.origin}: {setting_name(parameter)}"
    if not fits:
        raise UsageError(f"{name} takes {wanted}")
    try:
        converted = [kind.convert(one, parameter, None) for one in values]
    except click.BadParameter as error:
        complaint = f"{name}: {error.message}"
    else:
        return converted if many else converted[0]
    raise UsageError(complaint)
