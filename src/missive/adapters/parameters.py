"""Parameters of a URL as constructor arguments of an adapter."""

from __future__ import annotations

import difflib
import inspect
from types import NoneType, UnionType
from typing import Any, get_args

from missive.errors import UsageError
from missive.privacy import redact_url
from missive.urls import ParsedURL

_TRUE, _FALSE = {"1", "true", "yes", "on"}, {"0", "false", "no", "off"}


def constructor_arguments(adapter: type, url: ParsedURL, *, exclude: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the parameters of a URL as keyword arguments of an adapter's constructor, converted to their types.

    `exclude` names arguments that another part of the URL provides. Raise `UsageError` for an unknown parameter, for a
    missing one, and for a value of the wrong type.
    """
    options = {
        name: parameter
        for name, parameter in inspect.signature(adapter, eval_str=True).parameters.items()
        if name not in (*exclude, "processor") and _plain_type(parameter.annotation) is not None
    }
    given: dict[str, Any] = {}
    for name, value in url.parameters.items():
        if name not in options:
            near = difflib.get_close_matches(name, options, 1)
            hint = f"did you mean {near[0]}=?" if near else f"known parameters: {', '.join(options)}"
            raise UsageError(f"{adapter.__name__} has no parameter {name}= (in {redact_url(url.original)}): {hint}")
        given[name] = _converted(name, value, options[name].annotation, url)
    missing = [name for name, option in options.items() if option.default is option.empty and name not in given]
    if missing:
        raise UsageError(f"{redact_url(url.original)} needs ?{missing[0]}=…")
    return given


def _plain_type(annotation: Any) -> type | None:
    """Return the type to which text can be converted, or None for arguments that a URL cannot provide."""
    kinds = get_args(annotation) if isinstance(annotation, UnionType) else (annotation,)
    plain = [kind for kind in kinds if kind is not NoneType]
    return plain[0] if len(plain) == 1 and plain[0] in (str, int, float, bool) else None


def _converted(name: str, value: str, annotation: Any, url: ParsedURL) -> Any:
    kind = _plain_type(annotation) or str
    if kind is bool:
        if value.lower() in _TRUE | _FALSE:
            return value.lower() in _TRUE
    else:
        try:
            return kind(value)
        except ValueError:
            pass
    wanted = {int: "a whole number", float: "a number of seconds", bool: "true or false"}[kind]
    raise UsageError(f"{name}= must be {wanted} (in {redact_url(url.original)})")
