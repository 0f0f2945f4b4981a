"""The command line: a face of the engine and the operations, without logic of its own.

Each command parses its arguments, calls `missive.engine` or `missive.operations`, and prints the result. `main` holds
the `missive` command; `run`, `routing`, `doctor` and `dlq` (with `replay`, `edit` and `maintenance`) hold its
subcommands. They share `options`, `target`, `selection`, `argv` and `output`.
"""

from missive.cli.main import main

__all__ = ["main"]
