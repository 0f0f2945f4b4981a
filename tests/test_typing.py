"""mypy and pyright accept correct applications and refuse mistakes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

FILES = Path(__file__).parent / "typing"


def mypy_errors() -> set[tuple[str, int]]:
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--config-file=", *map(str, files())]
    out = subprocess.run(command, capture_output=True, text=True, check=False, cwd=FILES.parents[1]).stdout
    return {(Path(file).name, int(line)) for file, line in re.findall(r"^(.+?):(\d+): error:", out, re.MULTILINE)}


def pyright_errors() -> set[tuple[str, int]]:
    command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, "--outputjson", *map(str, files())]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=FILES.parents[1])
    found = json.loads(done.stdout)["generalDiagnostics"]
    return {(Path(d["file"]).name, d["range"]["start"]["line"] + 1) for d in found if d["severity"] == "error"}


def files() -> list[Path]:
    return [FILES / "accepted.py", FILES / "refused.py"]


def marked() -> set[tuple[str, int]]:
    """Return the lines that are marked as refused."""
    lines = (FILES / "refused.py").read_text().splitlines()
    return {("refused.py", number) for number, line in enumerate(lines, 1) if "# refused: " in line}


@pytest.mark.slow
@pytest.mark.parametrize("errors", [mypy_errors, pyright_errors], ids=["mypy", "pyright"])
def test_exactly_the_marked_lines_are_refused(errors):
    """Realistic applications have no error, and each mistake has an error on its own line."""
    assert marked()
    assert errors() == marked()
