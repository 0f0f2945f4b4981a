"""An application, and a fixture that runs `missive` in its directory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.process import Running

Start = Callable[..., Running]
Run = Callable[..., tuple[int, str, str]]

APPLICATION = """
import missive
from missive.matchers import Field, Header

proc = missive.Processor(missive.JSONMessage, name="shop", public=["type"])

@proc.handle_for(Field("type", "ok"))
def fine(message, context): ...

@proc.handle_for(Field("type", "bad"))
async def broken(message, context):
    raise ValueError(f"cannot work with {message.get_json()}")

@proc.handle_for(Field("type", "no") & Header("who", "me"))
def refused(message, context):
    context.dead_letter("not today", detail="hunter2")

adapter = missive.adapters.FileAdapter(proc, "in.jsonl", start="beginning")
number = 3
def make(): return proc
"""

FIXED = APPLICATION.replace('raise ValueError(f"cannot work with {message.get_json()}")', "pass")
"""The application without its bug."""
ODD = """
import missive
from missive.matchers import Field

class Own(missive.JSONMessage):
    def __init__(self, body, **envelope):
        raise TypeError(body)

proc = missive.Processor(missive.JSONMessage, name="odd")
own = missive.Processor(Own, name="own")

def never(message): return False
never.__qualname__ = "evil\\n\\x1b[31m"

@proc.handle_for(Field("漢", 1) & never)
def handle(message, context): ...
"""
"""An application with a matcher whose name controls a terminal, and a message class that refuses every message."""

SECRETS = ("hunter2", "4111-1111")
INPUT = '{"type":"ok","card":"4111-1111"}\n{"type":"bad","card":"4111-1111"}\n{"type":"odd"}\nhunter2\n'


@pytest.fixture
def run(missive: Start, tmp_path: Path) -> Run:
    """Run `missive` in a directory with an application and its input. Return the exit code, output and errors."""
    (tmp_path / "app.py").write_text(APPLICATION)
    (tmp_path / "in.jsonl").write_text(INPUT)

    def run(*arguments: str, **options: object) -> tuple[int, str, str]:
        process = missive(*arguments, **options)
        out, err = process.finish(60)
        assert "Traceback" not in err
        assert not [secret for secret in SECRETS if secret in out + err]
        return process.code, out, err

    return run
