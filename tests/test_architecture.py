"""The laws of the house, held by walking over the source: who imports whom, how long, how named."""

import ast
import os
import pathlib
import subprocess
import sys
import tokenize
from collections.abc import Callable, Iterator

import pytest

REPOSITORY = pathlib.Path(__file__).parents[1]
ROOMS = ("protocol", "runtimes", "meshd", "simulations")
OURS = (*ROOMS, "tests")
MAY_IMPORT = {
    "protocol": ("protocol",),
    "runtimes": ("runtimes",),
    "simulations": ("simulations", "protocol"),
    "meshd": ("meshd", "protocol", "runtimes"),
}
CLI = "meshd/cli/"
"""Only the command line reaches the simulator."""
BANNED_IN_PROTOCOL = (
    "asyncio",
    "datetime",
    "logging",
    "os",
    "pathlib",
    "secrets",
    "select",
    "selectors",
    "socket",
    "ssl",
    "structlog",
    "subprocess",
    "threading",
    "time",
    "trio",
)
BANNED_CALLS = ("open", "print", "input", "eval", "exec", "hash", "id")
"""Files and terminals; and what differs from process to process."""
LLAMA_PLACE = "runtimes/llama/engine/bindings.py"
"""The one file that imports llama_cpp; see runtimes/llama/README.md."""
OPTIONAL = ("gguf", "llama_cpp", "torch")
"""Not there in every installation: the extra [llama], and what makes the demo model."""
POSIX_MODULES = ("fcntl", "grp", "pty", "pwd", "resource", "syslog", "termios", "tty")
POSIX_PLACES = ("meshd/posix.py", "runtimes/functions/confinement.py")
"""Guarded there; runtimes may not import meshd, hence the second."""
VAGUE_NAMES = ("utils", "util", "common", "helpers", "shared", "base", "misc")
VAGUE_ALLOWED = ("runtimes/base.py",)
FILE_LINES_MAX = 400
FUNCTION_LINES_MAX = 70

Checker = Callable[[str, ast.Module], Iterator[str]]
"""(path in the repository, its tree) -> what is wrong."""
Function = ast.FunctionDef | ast.AsyncFunctionDef


def sources() -> list[str]:
    """Every Python file of the four rooms."""
    found = [path for room in ROOMS for path in (REPOSITORY / room).rglob("*.py")]
    return sorted(path.relative_to(REPOSITORY).as_posix() for path in found)


def parse(path: str) -> ast.Module:
    """The tree of one file."""
    with tokenize.open(REPOSITORY / path) as file:
        return ast.parse(file.read(), path)


def imports(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """(dotted module, line) of every import, wherever it stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or ""), node.lineno
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            for argument in node.args[:1]:
                if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                    yield argument.value, node.lineno


def check_import_law(path: str, tree: ast.Module) -> Iterator[str]:
    """protocol and runtimes import nothing of ours, and so on; no relative imports."""
    allowed = MAY_IMPORT[path.split("/")[0]]
    if path.startswith(CLI):
        allowed = (*allowed, "simulations")
    for module, line in imports(tree):
        top = module.split(".")[0]
        if module.startswith("."):
            yield f"{path}:{line}: relative import"
        elif top in OURS and top not in allowed:
            yield f"{path}:{line}: imports {module}"


def check_purity(path: str, tree: ast.Module) -> Iterator[str]:
    """protocol has no clock, socket, file, thread, log or chance of its own."""
    if not path.startswith("protocol/"):
        return
    for module, line in imports(tree):
        if module.split(".")[0] in BANNED_IN_PROTOCOL:
            yield f"{path}:{line}: imports {module}"
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Name(id=name)) if name in BANNED_CALLS:
                yield f"{path}:{node.lineno}: calls {name}()"
            case ast.Attribute(value=ast.Name(id="random"), attr=name) if name != "Random":
                yield f"{path}:{node.lineno}: uses random.{name}"
            case ast.ImportFrom(module="random"):
                yield f"{path}:{node.lineno}: imports from random"


def check_no_set_order(path: str, tree: ast.Module) -> Iterator[str]:
    """protocol never goes through a set: its order differs from process to process."""
    if not path.startswith("protocol/"):
        return
    for node in ast.walk(tree):
        walked: list[ast.expr] = []
        if isinstance(node, ast.For | ast.comprehension):
            walked.append(node.iter)
        elif isinstance(node, ast.Starred):
            walked.append(node.value)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
            name = node.func.id if isinstance(node.func, ast.Name) else node.func.attr
            if name in ("list", "tuple", "iter", "enumerate", "join", "fromkeys", "extend"):
                walked += node.args
        for expression in walked:
            if _is_set(expression):
                yield f"{path}:{expression.lineno}: goes through a set"


def _is_set(node: ast.expr) -> bool:
    if isinstance(node, ast.Set | ast.SetComp):
        return True
    if isinstance(node, ast.BinOp):
        return _is_set(node.left) or _is_set(node.right)
    called = node.func if isinstance(node, ast.Call) else None
    return isinstance(called, ast.Name) and called.id in ("set", "frozenset")


def check_llama(path: str, tree: ast.Module) -> Iterator[str]:
    """llama.cpp is loaded in one place, in the worker process."""
    for module, line in imports(tree):
        if module.split(".")[0] == "llama_cpp" and path != LLAMA_PLACE:
            yield f"{path}:{line}: imports llama_cpp"


def check_posix(path: str, tree: ast.Module) -> Iterator[str]:
    """What only POSIX has stays in its places, and is guarded there."""
    guarded = [
        statement
        for node in ast.walk(tree)
        if isinstance(node, ast.Try) and any("ImportError" in _caught(h) for h in node.handlers)
        for statement in node.body
    ]
    lines = [statement.lineno for statement in guarded]
    for module, line in imports(tree):
        if module.split(".")[0] in POSIX_MODULES:
            if path not in POSIX_PLACES:
                yield f"{path}:{line}: imports {module}, which only POSIX has"
            elif line not in lines:
                yield f"{path}:{line}: imports {module} without a guard"


def _caught(handler: ast.ExceptHandler) -> str:
    return ast.unparse(handler.type) if handler.type is not None else ""


def check_lengths(path: str, tree: ast.Module) -> Iterator[str]:
    """Files of at most 400 lines, functions of at most 70."""
    last = max((node.end_lineno or 0 for node in tree.body), default=0)
    if last > FILE_LINES_MAX:
        yield f"{path}: {last} lines; which noun is hiding in it?"
    for node in ast.walk(tree):
        if isinstance(node, Function):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > FUNCTION_LINES_MAX:
                yield f"{path}:{node.lineno}: {node.name} has {length} lines"


def check_docstrings(path: str, tree: ast.Module) -> Iterator[str]:
    """Every module, public class and public function says what it is for."""
    if tree.body and not ast.get_docstring(tree):
        yield f"{path}: no docstring"
    yield from _undocumented(path, tree)


def _undocumented(path: str, parent: ast.Module | ast.ClassDef) -> Iterator[str]:
    for node in parent.body:
        if not isinstance(node, ast.ClassDef | Function) or node.name.startswith("_"):
            continue
        decorators = [ast.unparse(decorator) for decorator in node.decorator_list]
        is_exempt = any(name.endswith((".setter", "overload", "override")) for name in decorators)
        if not ast.get_docstring(node) and not is_exempt:
            yield f"{path}:{node.lineno}: {node.name} has no docstring"
        if isinstance(node, ast.ClassDef):
            yield from _undocumented(path, node)


def check_names(path: str, tree: ast.Module) -> Iterator[str]:
    """A file is named by a noun of the field."""
    parts = path.removesuffix(".py").split("/")
    if path not in VAGUE_ALLOWED and any(part in VAGUE_NAMES for part in parts):
        yield f"{path}: a name that says nothing"


CHECKERS: tuple[Checker, ...] = (
    check_import_law,
    check_purity,
    check_no_set_order,
    check_llama,
    check_posix,
    check_lengths,
    check_docstrings,
    check_names,
)


@pytest.mark.parametrize("checker", CHECKERS, ids=lambda checker: checker.__name__)
def test_the_house_keeps_its_laws(checker: Checker) -> None:
    """Every file of every room, every law."""
    files = sources()
    assert len(files) > 50
    assert [wrong for path in files for wrong in checker(path, parse(path))] == []


BAD: list[tuple[Checker, str, str]] = [
    (check_import_law, "protocol/x.py", "import meshd.gossip"),
    (check_import_law, "protocol/x.py", "def f():\n    from runtimes.base import Runtime"),
    (check_import_law, "protocol/x.py", "from . import node"),
    (check_import_law, "runtimes/x.py", "from protocol.node import Node"),
    (check_import_law, "simulations/x.py", "import runtimes"),
    (check_import_law, "simulations/x.py", "import meshd"),
    (check_import_law, "meshd/x.py", "from simulations.world import World"),
    (check_import_law, "meshd/x.py", "import tests.helpers.nodes"),
    (check_import_law, "runtimes/x.py", "importlib.import_module('meshd.view')"),
    (check_purity, "protocol/x.py", "import time"),
    (check_purity, "protocol/x.py", "from os import urandom"),
    (check_purity, "protocol/x.py", "import random\nrandom.random()"),
    (check_purity, "protocol/x.py", "from random import shuffle"),
    (check_purity, "protocol/x.py", "open('f')"),
    (check_purity, "protocol/x.py", "print(1)"),
    (check_purity, "protocol/x.py", "import xml, trio.socket"),
    (check_no_set_order, "protocol/x.py", "for x in {1, 2}: pass"),
    (check_no_set_order, "protocol/x.py", "for x in set(y): pass"),
    (check_no_set_order, "protocol/x.py", "a = [x for x in frozenset(y)]"),
    (check_no_set_order, "protocol/x.py", "a = list({x for x in y})"),
    (check_no_set_order, "protocol/x.py", "a = dict.fromkeys(set(y) - set(z))"),
    (check_no_set_order, "protocol/x.py", "a = [*{1, 2}]"),
    (check_llama, "runtimes/llama/engine/engine.py", "import llama_cpp"),
    (check_llama, "meshd/x.py", "from llama_cpp import Llama"),
    (check_llama, "meshd/x.py", "importlib.import_module('llama_cpp.llama_cpp')"),
    (check_posix, "meshd/x.py", "import fcntl"),
    (check_posix, "runtimes/x.py", "try:\n    import resource\nexcept ImportError:\n    pass"),
    (check_posix, "meshd/posix.py", "import fcntl"),
    (check_lengths, "meshd/x.py", "pass\n" * 401),
    (check_lengths, "meshd/x.py", "class A:\n  def f(self):\n" + "    pass\n" * 70),
    (check_docstrings, "meshd/x.py", "x = 1"),
    (check_docstrings, "meshd/x.py", "'''m'''\ndef f(): pass"),
    (check_docstrings, "meshd/x.py", "'''m'''\nasync def f(): pass"),
    (check_docstrings, "meshd/x.py", "'''m'''\nclass A:\n  '''a'''\n  def f(self): pass"),
    (check_names, "meshd/utils.py", ""),
    (check_names, "protocol/common/x.py", ""),
]
GOOD: list[tuple[Checker, str, str]] = [
    (check_import_law, "meshd/cli/sim.py", "from simulations.world import World"),
    (check_import_law, "meshd/x.py", "import protocol.node, runtimes.base, json"),
    (check_purity, "protocol/x.py", "import random\nrandom.Random(1)"),
    (check_purity, "meshd/x.py", "import time"),
    (check_no_set_order, "protocol/x.py", "a = sorted({1, 2})\nb = 1 in {1, 2}\nc = len(set(y))"),
    (check_llama, LLAMA_PLACE, "import llama_cpp"),
    (
        check_posix,
        "meshd/posix.py",
        "try:\n    import fcntl\nexcept ImportError:\n    fcntl = None",
    ),
    (check_lengths, "meshd/x.py", "def f():\n" + "    pass\n" * 69),
    (check_docstrings, "meshd/__init__.py", ""),
    (check_docstrings, "meshd/x.py", "'''m'''\ndef _f(): pass\nclass _A:\n  def f(self): pass"),
    (check_names, "runtimes/base.py", ""),
]


@pytest.mark.parametrize(("checker", "path", "snippet"), BAD)
def test_each_law_notices_its_breach(checker: Checker, path: str, snippet: str) -> None:
    """A checker that notices nothing would pass everything."""
    assert list(checker(path, ast.parse(snippet))) != []


@pytest.mark.parametrize(("checker", "path", "snippet"), GOOD)
def test_no_law_forbids_what_is_meant(checker: Checker, path: str, snippet: str) -> None:
    """And the nearest allowed thing passes."""
    assert list(checker(path, ast.parse(snippet))) == []


@pytest.mark.parametrize("room", ROOMS)
def test_every_room_has_its_documentation(room: str) -> None:
    """README.md in the folder is the room's documentation."""
    assert (REPOSITORY / room / "README.md").read_text("utf-8").startswith("# ")


def test_the_rooms_import_without_posix() -> None:
    """As on Windows: none of ours gets fcntl and its kin, nor Unix sockets."""
    code = f"""
import builtins, importlib, socket

real_import = builtins.__import__

def guarded(name, globals=None, *more, **named):
    importer = (globals or {{}}).get("__name__", "").split(".")[0]
    if importer in {ROOMS!r} and name.split(".")[0] in {POSIX_MODULES!r}:
        raise ImportError(name)
    return real_import(name, globals, *more, **named)

import psutil, trio
builtins.__import__ = guarded
if hasattr(socket, "AF_UNIX"):
    del socket.AF_UNIX
done = 0
for path in {sources()!r}:
    name = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    if name.endswith("__main__"):
        continue
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in {OPTIONAL!r}:
            raise
    done += 1
print(done)
"""
    ran = subprocess.run(
        [sys.executable, "-c", code],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-2_000:]
    assert int(ran.stdout) > 50
