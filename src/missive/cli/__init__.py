"""The command line: a face over the engine and the operations, without logic of its own."""

from missive.cli.main import main

__all__ = ["main"]
