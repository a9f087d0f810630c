"""The one place where tests use a gateway through the official `openai` client."""

from collections.abc import Callable

import openai
import trio

from tests.meshd.gateway.fake_mesh import FakeMesh
from tests.meshd.gateway.raw_http import gateway


def with_client(mesh: FakeMesh, use: Callable[[openai.OpenAI], None]) -> None:
    """Run `use` in a thread, with a client of a gateway for `mesh`."""

    async def main() -> None:
        async with gateway(mesh) as running:

            def thread() -> None:
                with openai.OpenAI(base_url=running.url, api_key="none", max_retries=0) as client:
                    use(client)

            await trio.to_thread.run_sync(thread)

    trio.run(main)
