"""The command line: `main` is the console script `meshd`."""

from meshd.cli.app import main

__all__ = ["main"]
