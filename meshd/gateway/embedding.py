"""The one place that answers `POST /v1/embeddings` and `POST /v1/rerank`, in one piece each."""

import base64
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import trio

from meshd.answer import Mesh
from meshd.gateway.encoding import json_bytes
from meshd.gateway.exchange import Exchange, HeaderList
from meshd.gateway.mesh_headers import request_options, served_by
from runtimes.base import Finished
from runtimes.embedding import EmbedRequest, Vector


class EmbeddingsEndpoint:
    """Embeddings of the OpenAI dialect, by the mesh."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh

    async def __call__(self, exchange: Exchange) -> None:
        """Answer one request. Raises Refusal and RequestFailed."""
        # Pydantic and its models: not before they are needed, as in chat.py.
        from meshd.gateway.embedding_request import parse_embedding

        call = parse_embedding(await exchange.incoming.read())
        vectors, finished, headers = await _ask(self._mesh, exchange, call.request, call.user)
        encode = _base64 if call.is_base64 else _numbers
        rows = (
            {"object": "embedding", "index": index, "embedding": encode(vector)}
            for index, vector in enumerate(vectors)
        )
        body = await _list_of(
            "data", rows, {"model": call.request.model, "usage": _usage(finished)}
        )
        await exchange.reply_body(body, headers=headers)


class RerankEndpoint:
    """Ranking of the Jina dialect, by the mesh."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh

    async def __call__(self, exchange: Exchange) -> None:
        """Answer one request. Raises Refusal and RequestFailed."""
        from meshd.gateway.embedding_request import parse_rerank

        call = parse_rerank(await exchange.incoming.read())
        vectors, finished, headers = await _ask(self._mesh, exchange, call.request, call.user)
        scores = [vector.numbers[0] for vector in vectors]
        best = sorted(range(len(scores)), key=lambda index: -scores[index])[: call.top]
        texts = call.request.texts
        rows: Iterable[Mapping[str, Any]] = (
            {"index": index, "relevance_score": scores[index]}
            | ({"document": {"text": texts[index]}} if call.with_documents else {})
            for index in best
        )
        body = await _list_of(
            "results", rows, {"model": call.request.model, "usage": _usage(finished)}
        )
        await exchange.reply_body(body, headers=headers)


async def _ask(
    mesh: Mesh, exchange: Exchange, request: EmbedRequest, user: str | None
) -> tuple[list[Vector], Finished, HeaderList]:
    options = dataclasses.replace(request_options(exchange), user=user)
    exchange.incoming.close()
    async with mesh.generate(request, options) as answer:
        events = [event async for event in answer.events]
        headers = served_by(answer)
    finished = events[-1]
    assert isinstance(finished, Finished), "the mesh gives all or fails"
    return [event for event in events if isinstance(event, Vector)], finished, headers


def _numbers(vector: Vector) -> Sequence[float]:
    return vector.numbers


def _base64(vector: Vector) -> str:
    return base64.b64encode(vector.data).decode("ascii")


def _usage(finished: Finished) -> dict[str, int]:
    return {"prompt_tokens": finished.prompt_tokens, "total_tokens": finished.prompt_tokens}


async def _list_of(name: str, rows: Iterable[Mapping[str, Any]], rest: Mapping[str, Any]) -> bytes:
    """The JSON of a list and what stands beside it. A large one holds up nobody."""
    pieces = []
    for row in rows:
        pieces.append(json_bytes(row))
        await trio.lowlevel.checkpoint()
    head = json_bytes({"object": "list", **rest})[:-1]
    return head + b"," + json_bytes(name) + b":[" + b",".join(pieces) + b"]}"
