"""The one place for finding a node class of another protocol by its name, `module:Class`."""

import importlib
import inspect
import pathlib
import random
import sys
from collections.abc import Iterator
from typing import Any, cast

from protocol.config import ProtocolConfig
from protocol.identity import NODE_ID_BYTES, NodeId
from simulations.guard import said
from simulations.participant import Birth, NodeFactory
from simulations.section import ScenarioError, nearest


def find_node(named: str) -> NodeFactory:
    """The class that `module:Class` names; modules are also looked for in the working directory.

    Raises ScenarioError, one line, for a module that is not there or cannot be imported, a class
    that is not in it, and one whose objects are no nodes: that is tried once.
    """
    module_name, _, name = named.partition(":")
    if not module_name or not name:
        raise ScenarioError(f"--node {named!r} must be module:Class")
    module = _import(module_name)
    found = getattr(module, name, None)
    if not inspect.isclass(found):
        raise ScenarioError(
            f"{module_name} has no class {name!r}{nearest(name, _node_classes(module))}"
        )
    _try(named, found)
    return cast("NodeFactory", found)


def _import(name: str) -> object:
    here = str(pathlib.Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or name
        if name == missing or name.startswith(f"{missing}."):
            raise ScenarioError(f"no module {missing!r}, here or installed") from error
        raise ScenarioError(f"{name} cannot be imported: {said(error)}") from error
    except (Exception, SystemExit) as error:
        raise ScenarioError(f"{name} cannot be imported: {said(error)}") from error


def _node_classes(module: object) -> Iterator[str]:
    for name, value in vars(module).items():
        if inspect.isclass(value) and hasattr(value, "handle"):
            yield name


def _try(named: str, found: Any) -> None:  # noqa: ANN401  # whatever somebody's module holds
    if not callable(getattr(found, "handle", None)):
        raise ScenarioError(f"{named} has no method handle(event, now)")
    birth = Birth(
        node=NodeId(bytes(NODE_ID_BYTES)),
        rng=random.Random(0),  # noqa: S311  # nothing comes of it
        protocol=ProtocolConfig(),
    )
    try:
        node = found(birth)
    except Exception as error:
        raise ScenarioError(f"{named} cannot be made of a Birth: {said(error)}") from error
    if type(getattr(node, "deadline", None)) is not int:
        raise ScenarioError(f"{named} has no deadline in whole nanoseconds once it is made")
