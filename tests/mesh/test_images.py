"""A small model that sees, behind real daemons: asked by the official client, from any node."""

import base64
import importlib.util
import json
from collections.abc import Iterator, Sequence
from typing import Any

import openai
import pytest

from tests.helpers.daemons import Daemon, Daemons, until

pytestmark = [
    pytest.mark.processes,
    pytest.mark.llama,
    pytest.mark.skipif(
        any(importlib.util.find_spec(name) is None for name in ("llama_cpp", "gguf")),
        reason="needs the extra [dev]",
    ),
]

MODELS = {"demo": ["generate"], "m": ["generate", "see"]}


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Daemon]]:
    """A node without models, one with a model that sees, and one with one that does not."""
    from runtimes.llama.demo import build
    from tests.helpers.projectors import write_projector

    folder = tmp_path_factory.mktemp("models")
    build.write(folder / "m.gguf")
    write_projector(folder / "mmproj-m-f16.gguf")
    with Daemons(tmp_path_factory.mktemp("images")) as daemons:
        nodes = daemons.mesh({"anna": "none", "bert": str(folder), "carl": "demo"}, is_whole=False)
        until("all know all", lambda: all(set(node.models()) == set(MODELS) for node in nodes), 60)
        yield nodes
        daemons.check_logs()


def show(client: openai.OpenAI, images: Sequence[bytes], model: str = "m") -> Any:  # noqa: ANN401  # theirs
    """What the model says of images, greedily."""
    parts: list[Any] = [{"type": "text", "text": "What is this?"}]
    for data in images:
        url = f"data:image/png;base64,{base64.b64encode(data).decode()}"
        parts.append({"type": "image_url", "image_url": {"url": url, "detail": "low"}})
    return client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": parts}],
        temperature=0,
        max_tokens=24,
        extra_body={"ignore_eos": True},
    )


def test_images_are_seen_and_counted(client: openai.OpenAI) -> None:
    """The same one alike, another one not; their tokens are the prompt's."""
    from tests.helpers.projectors import IMAGE_TOKENS, png

    none, first, again, other = (
        show(client, images) for images in ([], [png()], [png()], [png(seed=1)])
    )
    said = [answer.choices[0].message.content for answer in (first, again, other, none)]
    assert said[0] == said[1]
    assert len(set(said)) == 3
    assert first.usage.prompt_tokens == none.usage.prompt_tokens + IMAGE_TOKENS


def test_each_refusal_is_one_line(client: openai.OpenAI) -> None:
    """Of a model that does not see, of what is no image, also where that shows only when it is
    decoded, of what would have to be fetched.
    """
    from tests.helpers.jpegs import hard_jpeg
    from tests.helpers.projectors import png

    with pytest.raises(openai.BadRequestError, match="cannot see images") as caught:
        show(client, [png()], model="demo")
    assert "the mesh has for that: m." in str(caught.value)
    for data in (b"", b"GIF89a", png()[:60], png()[:-20], hard_jpeg(8, 8, components=2)):
        with pytest.raises(openai.BadRequestError, match="image 1 "):
            show(client, [data])
    parts: Any = [{"type": "image_url", "image_url": {"url": "http://127.0.0.1:1/a.png"}}]
    with pytest.raises(openai.BadRequestError, match="nothing is fetched"):
        client.chat.completions.create(model="m", messages=[{"role": "user", "content": parts}])


def test_the_list_says_who_sees(mesh: list[Daemon]) -> None:
    """For people and for programs."""
    rows = {row["name"]: row["tasks"] for row in mesh[0].cli_json("models")["models"]}
    assert rows == MODELS
    reply = mesh[0].request("GET", "/v1/models/m")
    assert json.loads(reply.body)["meshd"]["tasks"] == MODELS["m"]
