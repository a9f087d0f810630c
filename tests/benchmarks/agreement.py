"""Whether the llama engine answers as llama-server does, request by request, greedily.

Both run the same model from the same llama.cpp. Compared are text, finish reason, token counts,
and the likeliest tokens with their logprobs where they are asked for; what one of them refuses the
other must refuse. Rounding differs with the shape of a batch, so of two tokens that are equally
likely to within LOGPROB_TOLERANCE either may come: such an answer is compared up to there, and
counted. One thing is known to differ: in chats with a schema llama-server lets the answer begin
with a blank, and then strips it; only finish reason and the JSON's shape are compared there.

Run: python -m tests.benchmarks.agreement [--llama-server PATH] [--model FILE.gguf]
Needs the program that tests.benchmarks.llama_server builds. The exit status is 1 when anything
differs.
"""

import argparse
import contextlib
import dataclasses
import json
import pathlib
import sys
from typing import Any

import httpx
import trio

from runtimes.base import ChatMessage, Chunk, Finished, GenerateRequest, Logprob, RuntimeFailure
from runtimes.limits import LOGPROBS_MAX
from runtimes.llama.runtime import LlamaRuntime
from runtimes.llama.settings import DEMO_FILE, read_settings
from tests.benchmarks import engine_servers, llama_server

CONTEXT_TOKENS = 1024
LOGPROB_TOLERANCE = 0.05
"""Keys and values are of 16 bits; far into a text, this is what batches of other shapes make."""
LOGPROBS = 4

SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 12},
            "tags": {"type": "array", "items": {"enum": ["red", "green"]}, "maxItems": 3},
            "size": {"type": "integer", "minimum": 0, "maximum": 99},
        },
        "required": ["name", "tags", "size"],
        "additionalProperties": False,
    }
)
PROMPTS = (
    "Once upon a time",
    "The quick brown fox",
    "Grüße aus Köln, 世界! 👩‍👩‍👧",
    "word " * 60,
    "the man in the other town " * 30,
    "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
    " ",
)
TURNS = (
    ("user", "Tell me a story."),
    ("assistant", "There was a man."),
    ("user", "And then?"),
)


def requests() -> dict[str, GenerateRequest]:
    """What is asked, each under a name; all greedy."""
    asked = {
        f"prompt {number}": _prompt(prompt, max_tokens=48) for number, prompt in enumerate(PROMPTS)
    }
    asked |= {f"{tokens} tokens": _prompt(max_tokens=tokens) for tokens in (1, 2, 7, 200)}
    asked |= {f"stop {stop!r}": _prompt(stop=stop) for stop in STOPS}
    asked |= {f"chat of {n}": _chat(TURNS[:n]) for n in (1, 3)}
    asked["chat with a system message"] = _chat((("system", "Be brief."), *TURNS))
    asked["to the end of turn"] = _prompt(max_tokens=400, ignore_eos=False)
    asked["until the context is full"] = _prompt("the " * 500, max_tokens=None)
    asked["repeat penalty"] = _prompt(repeat_penalty=1.3)
    asked["presence and frequency"] = _prompt(presence_penalty=0.7, frequency_penalty=0.5)
    asked["biases"] = _prompt(logit_bias=((101, -100.0), (97, -2.0), (120, 3.0)))
    asked["schema"] = _prompt(json_schema=SCHEMA, max_tokens=300, ignore_eos=False)
    asked["schema in a chat"] = _chat(TURNS[:1], json_schema=SCHEMA, max_tokens=300)
    asked["schema, cut off"] = _prompt(json_schema=SCHEMA, max_tokens=9)
    asked["grammar"] = _prompt(grammar='root ::= ("yes" | "no") [.!]', ignore_eos=False)
    asked["grammar without end"] = _prompt(grammar="root ::= ([a-f] | [0-9])+")
    asked["logprobs"] = _prompt(logprobs=LOGPROBS, max_tokens=30)
    asked["logprobs in a chat"] = _chat(TURNS[:1], logprobs=LOGPROBS, max_tokens=30)
    asked["too long a prompt"] = _prompt("xq" * CONTEXT_TOKENS)
    asked["no grammar"] = _prompt(grammar="root ::= (")
    return asked


STOPS = (("e",), ("th", "an"), (" a",), ("zq", "the m"), (".",), ("qqqq",))


def _prompt(prompt: str = PROMPTS[0], **changes: Any) -> GenerateRequest:  # noqa: ANN401
    fields = {"max_tokens": 40, "ignore_eos": True} | changes
    return GenerateRequest(model="m", prompt=prompt, temperature=0.0, **fields)


def _chat(turns: tuple[tuple[str, str], ...], **changes: Any) -> GenerateRequest:  # noqa: ANN401
    messages = tuple(ChatMessage(role=role, content=text) for role, text in turns)
    fields = {"max_tokens": 40} | changes
    return GenerateRequest(model="m", messages=messages, temperature=0.0, **fields)


@dataclasses.dataclass(slots=True)
class Answer:
    """What came of one request, from either."""

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    likely: list[list[tuple[str, float]]]
    """Of each token: it itself and the likeliest in its place; text and logprob."""


async def ask_engine(runtime: LlamaRuntime, request: GenerateRequest) -> Answer | None:
    """The engine's answer; None: refused."""
    text, likely = "", []
    try:
        async with contextlib.aclosing(runtime.generate(request)) as events:
            async for event in events:
                if isinstance(event, Chunk):
                    text += event.text
                    likely += [[_shown(each) for each in some] for some in event.logprobs]
                elif isinstance(event, Finished):
                    finished = event
    except RuntimeFailure as failure:
        if failure.code not in ("bad_request", "context_too_long"):
            raise
        return None
    counts = finished.prompt_tokens, finished.completion_tokens
    return Answer(text, finished.finish_reason, *counts, likely)


def _shown(likely: Logprob) -> tuple[str, float]:
    return likely.data.decode("utf-8", "replace"), likely.logprob


async def ask_llama_server(client: httpx.AsyncClient, request: GenerateRequest) -> Answer | None:
    """llama-server's answer; None: refused."""
    fields: dict[str, Any] = {
        "temperature": 0.0,
        "max_tokens": -1 if request.max_tokens is None else request.max_tokens,
        "stop": list(request.stop),
        "ignore_eos": request.ignore_eos,
        "repeat_penalty": request.repeat_penalty,
        "presence_penalty": request.presence_penalty,
        "frequency_penalty": request.frequency_penalty,
        "logit_bias": [list(pair) for pair in request.logit_bias],
        "cache_prompt": False,
    }
    if request.grammar is not None:
        fields["grammar"] = request.grammar
    if request.json_schema is not None:
        fields["json_schema"] = json.loads(request.json_schema)
    if request.messages is None:
        path, fields["prompt"] = "/v1/completions", request.prompt
        if request.logprobs is not None:
            fields["logprobs"] = request.logprobs
    else:
        path = "/v1/chat/completions"
        fields["messages"] = [
            {"role": turn.role, "content": turn.content} for turn in request.messages
        ]
        if request.logprobs is not None:
            fields |= {"logprobs": True, "top_logprobs": request.logprobs}
    reply = await client.post(path, json=fields)
    if reply.status_code == 400:
        return None
    reply.raise_for_status()
    answer = reply.json()
    choice, usage = answer["choices"][0], answer["usage"]
    content = (choice.get("logprobs") or {}).get("content") or []
    return Answer(
        choice["text"] if request.messages is None else choice["message"]["content"],
        choice["finish_reason"],
        usage["prompt_tokens"],
        usage["completion_tokens"],
        [[_pair(token), *map(_pair, token["top_logprobs"])] for token in content],
    )


def _pair(token: dict[str, Any]) -> tuple[str, float]:
    return bytes(token["bytes"]).decode("utf-8", "replace"), token["logprob"]


def differences(request: GenerateRequest, ours: Answer | None, theirs: Answer | None) -> list[str]:
    """In which ways two answers are not the same."""
    if ours is None or theirs is None:
        return [] if ours is theirs else [f"refused by one: {ours} and {theirs}"]
    if request.json_schema is not None and request.messages is not None:
        shapes = [(answer.finish_reason, _shape(answer.text)) for answer in (ours, theirs)]
        return [] if shapes[0] == shapes[1] else [f"finish reason and shape: {shapes}"]
    found = [
        f"{field}: {getattr(ours, field)!r} and {getattr(theirs, field)!r}"
        for field in ("text", "finish_reason", "prompt_tokens", "completion_tokens")
        if getattr(ours, field) != getattr(theirs, field)
    ]
    # The end of a turn is a token without text, which llama-server leaves out.
    told = [[*some] for some in ours.likely if some[0][0]]
    if len(told) != len([some for some in theirs.likely if some[0][0]]):
        found.append(f"logprobs of {len(told)} and of {len(theirs.likely)} tokens")
    for place, (one, other) in enumerate(zip(told, theirs.likely, strict=False)):
        if one[0][0] != other[0][0] or len(one) != len(other):
            found.append(f"token {place}: {one} and {other}")
            break
        far = [
            (mine, their)
            for mine, their in zip(one, other, strict=True)
            if abs(mine[1] - their[1]) > LOGPROB_TOLERANCE
        ]
        if far:
            found.append(f"logprobs of token {place}: {far}")
            break
    return found


def _shape(text: str) -> dict[str, str]:
    return {key: type(value).__name__ for key, value in json.loads(text).items()}


async def is_toss_up(
    runtime: LlamaRuntime, request: GenerateRequest, ours: Answer | None, theirs: Answer | None
) -> bool:
    """Whether the first tokens that differ are equally likely."""
    if ours is None or theirs is None or ours.text == theirs.text:
        return False
    asked = await ask_engine(runtime, dataclasses.replace(request, logprobs=LOGPROBS_MAX))
    assert asked is not None
    before = ""
    for own, *top in asked.likely:
        if not theirs.text.startswith(before + own[0]):
            rivals = [each for each in top if each[0] and theirs.text.startswith(before + each[0])]
            # Each of the two may be off by the tolerance, in either direction.
            return any(abs(each[1] - own[1]) < 2 * LOGPROB_TOLERANCE for each in rivals)
        before += own[0]
    return ours.text != asked.text  # this time it came out like theirs


async def main() -> None:
    """Ask both everything."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--llama-server", metavar="PATH", type=pathlib.Path)
    parser.add_argument("--model", type=pathlib.Path, default=DEMO_FILE)
    options = parser.parse_args()
    try:
        program = options.llama_server or llama_server.llama_server()
    except llama_server.NotBuilt as missing:
        sys.exit(str(missing))
    settings = read_settings(
        str(options.model), {"threads": "1", "context_tokens": str(CONTEXT_TOKENS)}
    )
    runtime = LlamaRuntime(settings)
    wrong = toss_ups = 0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(runtime.serve, lambda: None)
        command = engine_servers.llama_server_command(
            program, options.model, 1, slots=1, tokens=CONTEXT_TOKENS
        )
        async with engine_servers.http_server(command) as (port, _):
            with trio.fail_after(engine_servers.START_S):
                while runtime.card is None:  # noqa: ASYNC110  # a benchmark's start
                    await trio.sleep(0.05)
            address = f"http://127.0.0.1:{port}"
            async with httpx.AsyncClient(base_url=address, timeout=120, trust_env=False) as client:
                asked = requests()
                for name, request in asked.items():
                    ours = await ask_engine(runtime, request)
                    theirs = await ask_llama_server(client, request)
                    found = differences(request, ours, theirs)
                    if found and await is_toss_up(runtime, request, ours, theirs):
                        toss_ups += 1
                        found = []
                    wrong += bool(found)
                    for difference in found:
                        print(f"{name}: {difference}")
        nursery.cancel_scope.cancel()
    print(f"{len(asked)} requests, {wrong} differ, {toss_ups} alike up to equally likely tokens")
    if wrong:
        sys.exit(1)


if __name__ == "__main__":
    trio.run(main)
