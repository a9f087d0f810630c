"""The one place that answers `POST /v1/chat/completions`."""

from meshd.gateway.exchange import Exchange
from meshd.gateway.generating import Generating
from meshd.gateway.openai import ChatCompletion


class ChatEndpoint:
    """Chat completions of the OpenAI dialect, by the mesh."""

    def __init__(self, generating: Generating) -> None:
        self._generating = generating

    async def __call__(self, exchange: Exchange) -> None:
        """Answer one request. Raises Refusal and RequestFailed."""
        # Pydantic and its models are a fifth of the daemon's memory: not before they are needed.
        from meshd.gateway.openai_request import parse_chat

        await self._generating.answer(exchange, parse_chat, ChatCompletion)
