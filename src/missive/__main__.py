"""`python -m missive`: the same as the `missive` command."""

from missive.cli import main

main()
