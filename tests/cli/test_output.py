"""Output: no colours in a pipe, no control characters, and closed or full outputs."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import ODD, Run, Start


def test_output_in_a_pipe_has_no_colours(run: Run):
    """A pipe gets no escape sequences."""
    assert "\x1b" not in run("routes", "app:proc")[1]


def test_a_closed_pipe_is_no_error(run: Run, missive: Start):
    """Output into a closed pipe, such as that of `| head`, ends the command quietly."""
    run("run", "app:proc", "--from", "file:in.jsonl")
    reader, writer = os.pipe()
    os.close(reader)
    process = missive("dlq", "list", stdout=writer)
    os.close(writer)
    assert process.finish()[1] == ""
    assert process.code in {0, 1}


def test_control_characters_are_escaped(run: Run, tmp_path: Path):
    """Control characters in a name are escaped, and so are characters that the terminal cannot encode."""
    (tmp_path / "odd.py").write_text(ODD, encoding="utf-8")
    code, out, _ = run("routes", "odd:proc", env={"PYTHONIOENCODING": "cp1252"})
    assert code == 0
    assert "evil\\n\\x1b[31m" in out
    assert "\\u6f22" in out
    assert len(out.splitlines()) == 2


@pytest.mark.parametrize(
    ("redirected", "code", "said"),
    [
        ("> /dev/full", 1, "missive: the output cannot be written: No space left on device"),
        (">&-", 0, ""),
    ],
)
@pytest.mark.parametrize("command", ["routes", "check", "check --json"])
def test_an_output_that_cannot_be_written_is_one_line(
    start: Start, run: Run, command: str, redirected: str, code: int, said: str
):
    """A full disk is one line; a closed standard output is no error."""
    del run  # the fixture writes the application
    executable = Path(sys.executable).parent / "missive"
    process = start("bash", "-c", f"{executable} {command} app:proc {redirected}")
    _, err = process.finish(60)
    assert (process.code, err.strip()) == (code, said)
