"""Stop signals: the command whose process holds them from the first import."""

from __future__ import annotations

import pytest

from missive._signals import is_command


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("python -P -m missive run app:proc", True),
        ("python -X dev -W error -m missive run", True),
        ("python /usr/bin/missive run app:proc", True),
        ("python missive run", True),
        ("python -m missive routes run", False),
        ("python -m missive", False),
        ("python -m other run", False),
        ("python app.py missive run", False),
        ("python -c code missive run", False),
        ("python -m", False),
        ("python", False),
    ],
)
def test_the_command_is_recognized(line: str, expected: bool):
    """Only `missive run` holds signals when it imports Missive."""
    assert is_command(line.split()) is expected
