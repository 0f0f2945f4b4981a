"""Content that a command reads from a file or from standard input, so that it is never an argument."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from missive.errors import UsageError

HEADERS_HELP = 'A file of headers: lines "name: value", or a JSON object.'


def read_content(file: str, flag: str) -> bytes:
    """Return the bytes of a file, or of standard input for `-`. Raise `UsageError` when they cannot be read."""
    if file == "-":
        if sys.stdin is None:
            raise UsageError(f"standard input is closed: name a file with {flag} FILE")
        return sys.stdin.buffer.read()
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}") from None


def check_one_reader(*files: str | None) -> None:
    """Raise `UsageError` when two options read standard input."""
    if files.count("-") > 1:
        raise UsageError("only one option can read standard input (-): name a file for the others")


def read_text(file: str, flag: str) -> str:
    """Return the text of a file without its last line break. Raise `UsageError` when it is not UTF-8."""
    try:
        return read_content(file, flag).decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        complaint = f"{flag}: the text in {file} is not UTF-8"
    raise UsageError(complaint)


def read_headers(file: str, flag: str = "--headers") -> list[tuple[str, str]]:
    """Return the headers of a file, in order. A name may be repeated.

    The file has one header in each line, such as `type: order.placed`, or one JSON object, whose values are texts or
    lists of texts. Errors give the place and never the content.
    """
    text = read_text(file, flag)
    return _from_json(text, file, flag) if text.lstrip().startswith("{") else _from_lines(text, file, flag)


def _from_lines(text: str, file: str, flag: str) -> list[tuple[str, str]]:
    pairs = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        name, colon, value = line.partition(":")
        if not colon or not name.strip():
            raise UsageError(f'{flag}: line {number} of {file} is no header: write "name: value", or a JSON object')
        pairs.append((name.strip(), value.strip()))
    return pairs


def _from_json(text: str, file: str, flag: str) -> list[tuple[str, str]]:
    try:
        headers = json.loads(text)
    except ValueError as error:
        place = f"line {error.lineno}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else "its text"
        complaint = f"{flag}: {file} is not valid JSON at {place}"
    else:
        several = [(name, value if isinstance(value, list) else [value]) for name, value in headers.items()]
        pairs = [(name, value) for name, values in several for value in values]
        wrong = sum(not isinstance(value, str) for _, value in pairs)
        if not wrong:
            return pairs
        complaint = f"{flag}: each value of the object in {file} must be a text, or a list of texts; {wrong} are not"
    raise UsageError(complaint)  # outside the except block, so that the error has no context that quotes the text
