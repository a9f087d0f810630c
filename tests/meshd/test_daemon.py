"""The daemon's composition: what a start brings into memory."""

import os
import pathlib
import subprocess
import sys

TIMEOUT_S = 30.0
HEAVY = {
    "cryptography", "httpx", "huggingface_hub", "jinja2", "llama_cpp",
    "numpy", "openai", "pygments", "rich", "spake2", "zeroconf",
}  # fmt: skip
OF_JOBS = "meshd.tasks.descriptor"
OF_REQUESTS = "meshd.gateway.openai_request"
"""What brings pydantic models: only a node that was given a job, a gateway that was asked."""


def test_a_gateway_only_daemon_is_light(tmp_path: pathlib.Path) -> None:
    """A node without models, off the local network, founds a mesh and is ready without anything
    that it has no need of: no terminal, HTTP client, X.509, mDNS, arrays or model library.
    """
    script = (
        "import os, signal, sys\n"
        "from meshd.cli import up\n"
        "from meshd.cli.app import run\n"
        "def announce(ready):\n"
        "    print(*sys.modules)\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "up.announce_as_json = announce\n"
        "arguments = '--json --model none --no-lan --listen 127.0.0.1:0 --gateway 127.0.0.1:0'\n"
        "sys.exit(run(['up', *arguments.split(), '--home', sys.argv[1]]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
        env={**os.environ, "MESHD_DEBUG": "1"},
    )
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.split())
    assert "meshd.running" in loaded
    assert not loaded & {*HEAVY, OF_JOBS, OF_REQUESTS}
