"""The one place for making a failing scenario short while it still fails the same way.

Delta debugging by hand (Zeller 1999): leave out acts, then shorten, shrink and simplify, as long as
the same property is still violated. Each try is a run, and there are only so many.
"""

import copy
from collections.abc import Callable, Iterator
from typing import Any, Final

from simulations.swarm import Content

TRIES_MAX: Final = 200


def shrink(
    content: Content, still_fails: Callable[[Content], bool], tries_max: int = TRIES_MAX
) -> Content:
    """The shortest of the scenarios that were tried and still fail."""
    tries = 0
    is_shorter = True
    while is_shorter and tries < tries_max:
        is_shorter = False
        for candidate in _shorter(content):
            if tries >= tries_max:
                break
            tries += 1
            if still_fails(candidate):
                content, is_shorter = candidate, True
                break
    return content


def _shorter(content: Content) -> Iterator[Content]:
    """Every scenario that is one step simpler, the boldest steps first."""
    acts = content.get("act", [])
    if len(acts) > 1:
        half = len(acts) // 2
        yield _with(content, act=acts[:half])
        yield _with(content, act=acts[half:])
        for place in range(len(acts)):
            yield _with(content, act=acts[:place] + acts[place + 1 :])
    nodes = content["nodes"]
    for fewer in dict.fromkeys((nodes // 2, nodes - nodes // 4, nodes - 1)):
        if 2 <= fewer < nodes:
            yield _with(content, nodes=fewer)
    for table in ("protocol", "network"):
        for key in content.get(table, {}):
            yield _without(content, table, key)
    for place, act in enumerate(acts):
        for simpler in _simpler(act):
            yield _with(content, act=[*acts[:place], simpler, *acts[place + 1 :]])
    if content["duration_s"] > 2:
        yield _with(content, duration_s=content["duration_s"] // 2)


def _simpler(act: Content) -> Iterator[Content]:
    for key in ("count", "for_s"):
        if act.get(key, 0) > 1:
            yield {**act, key: act[key] // 2}
    for key in [key for key in act if key not in ("do", "at_s", "count", "for_s")]:
        if key in ("percent", "pairs_percent"):  # these have no default
            continue
        yield {name: value for name, value in act.items() if name != key}


def _with(content: Content, **changes: Any) -> Content:  # noqa: ANN401  # what a file may hold
    return copy.deepcopy({**content, **changes})


def _without(content: Content, table: str, key: str) -> Content:
    left = {name: value for name, value in content[table].items() if name != key}
    if key == "regions":
        left.pop("link", None)
    return _with(content, **{table: left})
