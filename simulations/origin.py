"""The one place for what a result came from: which code, and which configuration."""

import functools
import hashlib
import importlib.metadata
import json
import pathlib
import subprocess
from collections.abc import Mapping
from typing import Any, Final

ROOT: Final = pathlib.Path(__file__).resolve().parent.parent
GIT_S: Final = 5
_DIGEST_CHARS: Final = 12


@functools.cache
def commit() -> str:
    """The commit of the checkout that runs, with `+` and how files differ from it if they do; else
    the version of the installed package.
    """
    head = _git("rev-parse", "--short=12", "HEAD") if (ROOT / ".git").exists() else None
    if head is None:
        return f"meshd {importlib.metadata.version('meshd')}"
    rooms = ("--", "protocol", "simulations")
    changed = _git("status", "--porcelain", *rooms)
    if not changed:
        return head
    return f"{head}+{digest({'changed': changed, 'diff': _git('diff', 'HEAD', *rooms)})}"


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(  # noqa: S603  # fixed words
            ("git", "-C", str(ROOT), *arguments),  # noqa: S607  # the user's own git
            capture_output=True,
            text=True,
            timeout=GIT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def digest(configuration: Mapping[str, Any]) -> str:
    """A short name for a configuration; equal ones have the same."""
    text = json.dumps(configuration, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGEST_CHARS]
