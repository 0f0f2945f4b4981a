"""mypy and pyright accept correct applications and refuse mistakes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_docs import ROOT, blocks

HANDLERS = ROOT / "docs" / "handlers.md"
FILES = Path(__file__).parent / "typing"


def mypy_errors(files: list[Path]) -> set[tuple[str, int]]:
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--config-file=", *map(str, files)]
    out = subprocess.run(command, capture_output=True, text=True, check=False, cwd=FILES.parents[1]).stdout
    return {(Path(file).name, int(line)) for file, line in re.findall(r"^(.+?):(\d+): error:", out, re.MULTILINE)}


def pyright_errors(files: list[Path]) -> set[tuple[str, int]]:
    command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, "--outputjson", *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=files[0].parent)
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
    assert errors(files()) == marked()


@pytest.mark.slow
@pytest.mark.parametrize("errors", [mypy_errors, pyright_errors], ids=["mypy", "pyright"])
def test_the_typed_examples_have_no_error(errors, tmp_path):
    """The examples of docs/handlers.md about typed bodies pass both checkers, and a mistake in one is found."""
    written = [tmp_path / block.file for block in blocks(HANDLERS) if (block.file or "").startswith("typed_")]
    for block in blocks(HANDLERS):
        if tmp_path / (block.file or "") in written:
            (tmp_path / str(block.file)).write_text(block.text)
    assert len(written) == 3
    assert errors(written) == set()
    orders = tmp_path / "typed_orders.py"
    orders.write_text(orders.read_text().replace("order.id,", "order.number,"))
    assert [file for file, _ in errors(written)] == [orders.name]
