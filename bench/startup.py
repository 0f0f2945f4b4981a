"""How long it takes to import Missive beyond the interpreter, and to show the command's help."""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROUNDS = 15


def seconds(*command: str) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def main() -> None:
    command = shutil.which("missive", path=str(Path(sys.executable).parent)) or "missive"
    bare, imported, helped = [], [], []
    for _ in range(ROUNDS):  # interleaved, so that a busy moment is everybody's
        bare.append(seconds(sys.executable, "-c", "pass"))
        imported.append(seconds(sys.executable, "-c", "import missive"))
        helped.append(seconds(command, "--help"))
    base, whole, shown = (statistics.median(runs) * 1e3 for runs in (bare, imported, helped))
    print(f"the interpreter alone: {base:.0f} ms")
    print(f"import missive: {whole - base:.0f} ms beyond it (the bar is 80 ms)")
    print(f"missive --help: {shown:.0f} ms (the bar is 200 ms)")


if __name__ == "__main__":
    main()
