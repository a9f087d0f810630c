"""Installs the LiteLLM proxy to measure against, and says how it is started.

It and its hundred dependencies come into a virtual environment of its own in the user's cache
folder, once, and never into this one.

Run: python -m tests.benchmarks.litellm_proxy
Needs an index that pip reaches; prints the program's path.
"""

import json
import os
import pathlib
import subprocess
import sys
import venv

import platformdirs

PACKAGE = "litellm[proxy]"
MODEL = "demo"


class NotInstalled(Exception):
    """There is no LiteLLM; the message says why."""


def litellm() -> pathlib.Path:
    """The program, installed on first use. Raises NotInstalled."""
    folder = pathlib.Path(platformdirs.user_cache_dir("meshd")) / "benchmarks" / "litellm"
    programs = folder / ("Scripts" if os.name == "nt" else "bin")
    is_complete = folder / "is-complete"
    if not is_complete.is_file():
        print(f"installing {PACKAGE} in {folder}", file=sys.stderr, flush=True)
        venv.create(folder, clear=True, with_pip=True)
        pip = [str(programs / "python"), "-m", "pip", "install", "--quiet", PACKAGE]
        if subprocess.run(pip, check=False, stdout=sys.stderr).returncode:
            raise NotInstalled(f"LiteLLM is missing: pip could not install {PACKAGE}")
        is_complete.touch()
    return programs / "litellm"


def command(program: pathlib.Path, upstream: int, folder: pathlib.Path) -> list[str]:
    """How a proxy for the server on loopback port `upstream` is started; its settings go to
    `folder`. One process, as it does by default, without database, callbacks and API keys.
    """
    model = {
        "model": f"openai/{MODEL}",
        "api_base": f"http://127.0.0.1:{upstream}/v1",
        "api_key": "none",
    }
    settings = {
        "model_list": [{"model_name": MODEL, "litellm_params": model}],
        "general_settings": {"dangerously_permit_weak_or_unset_master_key": True},
    }
    path = folder / "litellm.yaml"
    path.write_text(json.dumps(settings), "utf-8")  # which is YAML, too
    # Isolated, or it would import what lies in the folders of PYTHONPATH.
    python = str(program.with_name("python"))
    return [python, "-I", str(program), "--config", str(path), "--host", "127.0.0.1"]


def main() -> None:
    """Install it unless it is there, and say where it is."""
    try:
        print(litellm())
    except NotInstalled as missing:
        sys.exit(str(missing))


if __name__ == "__main__":
    main()
