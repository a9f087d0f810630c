"""The one place that makes `python -m meshd` the same as the command `meshd`."""

from meshd.cli import main

main()
