"""A stand-in for `meshd up --json`, as a process: ready line, control socket, gateway, goodbye.

The "mesh" is the other homes beside its own; a node whose home contains `model` has the model.
`FAKE_NODE_FAILS` names the node that does not start, `FAKE_NODE_DIES` the one that ends once it is
ready; `FAKE_NODE_DEAF` lets all ignore SIGTERM. `FAKE_NODE_ANSWERS` names who answers, then who
goes on.
"""

import argparse
import json
import os
import pathlib
import signal
import sys
from collections.abc import Mapping
from typing import Any

import trio

from meshd.control import serve_control
from meshd.home import Home
from tests.meshd.cli.fake_gateway import gateway_running


def _parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("up", choices=["up"])
    parser.add_argument("--json", action="store_true", required=True)
    parser.add_argument("--no-lan", action="store_true", required=True)
    for name in ("--home", "--name", "--listen", "--gateway", "--model"):
        parser.add_argument(name, required=True)
    parser.add_argument("--join")
    return parser.parse_args()


async def _main(options: argparse.Namespace, gateway_url: str) -> None:
    home = Home(pathlib.Path(options.home))
    home.create()
    if options.model != "none":
        (home.path / "model").touch()

    async def status(arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"gateway": gateway_url}

    async def nodes(arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        names = [path.parent.name for path in home.path.parent.glob("*/control.sock")]
        return {"nodes": [{"name": name, "state": "alive"} for name in names]}

    async def models(arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        holders = [path.parent.name for path in home.path.parent.glob("*/model")]
        return {"models": [{"name": "demo", "nodes": holders}] if holders else []}

    async def invite(arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        assert arguments["uses"] >= 1
        return {"token": "TOKEN", "invite": "i1"}

    handlers = {"status": status, "nodes": nodes, "models": models, "invite": invite}
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with trio.open_nursery() as nursery:

            async def serve(task_status: trio.TaskStatus[None]) -> None:
                await serve_control(home, handlers, task_status)

            await nursery.start(serve)
            print(json.dumps({"event": "ready", "gateway": gateway_url}), flush=True)
            async for _ in signals:
                if "FAKE_NODE_DEAF" not in os.environ:
                    nursery.cancel_scope.cancel()


def main() -> None:
    """Run until told to stop."""
    options = _parsed()
    if os.environ.get("FAKE_NODE_FAILS") == options.name:
        sys.exit("meshd: port 7 is taken; choose another")
    if os.environ.get("FAKE_NODE_DIES") == options.name:
        print(json.dumps({"event": "ready", "gateway": "http://127.0.0.1:1"}), flush=True)
        sys.exit("meshd: out of memory")
    with gateway_running() as gateway:
        if names := os.environ.get("FAKE_NODE_ANSWERS"):
            gateway.headers["x-meshd-node"] = names.partition(",")[0]
            comment = f": meshd nodes={names} continuations={names.count(',')}\n\n"
            gateway.body = gateway.body.replace(b": by far\n\n", comment.encode())
        trio.run(_main, options, gateway.url)


if __name__ == "__main__":
    main()
