"""The daemon: trio, the operating system, HTTP, and the only room that joins the others."""

from typing import Final

__version__: Final = "0.1.0"
