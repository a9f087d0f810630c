"""Runs another benchmark of virtual time with the pure core compiled, twice as fast.

mypyc (it comes with mypy) makes C of `protocol/` and `simulations/` in a temporary copy; that takes
some minutes and a C compiler. Nothing else differs: the hash of a seed's trace is that of the
interpreted code, which the benchmark prints so that anybody can compare.

Run: python -m tests.benchmarks.compiled starvation --grid fifty
     python -m tests.benchmarks.compiled goodbyes
     python -m tests.benchmarks.compiled fuzz
     python -m tests.benchmarks.compiled bench --nodes 1000
     python -m tests.benchmarks.compiled policies --nodes 1000 --load-age 1 5
"""

import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
from typing import Final

ROOT: Final = pathlib.Path(__file__).resolve().parents[2]
ROOMS: Final = ("protocol", "simulations")
BENCHMARKS: Final = ("starvation", "goodbyes", "science", "bench", "policies", "fuzz")
_MYPY: Final = """[mypy]
strict = True
[mypy-msgpack.*]
ignore_missing_imports = True
[mypy-distributed.*]
follow_imports = skip
ignore_missing_imports = True
[mypy-matplotlib.*]
follow_imports = skip
ignore_missing_imports = True
"""


def build(folder: pathlib.Path) -> None:
    """Put compiled rooms, and the benchmarks as they are, into `folder`."""
    for room in ROOMS:
        shutil.copytree(ROOT / room, folder / room, ignore=shutil.ignore_patterns("__pycache__"))
    benchmarks = folder / "tests" / "benchmarks"
    benchmarks.mkdir(parents=True)
    (folder / "tests" / "__init__.py").touch()
    (benchmarks / "__init__.py").touch()
    for name in (*BENCHMARKS, "gossip_theory", "swim_variants"):
        shutil.copy(ROOT / "tests" / "benchmarks" / f"{name}.py", benchmarks)
    (folder / "mypy.ini").write_text(_MYPY)
    # Interpreted: packages, exceptions, whose class mypyc cannot build on a built-in one, the
    # example whose class others extend, and where it makes wrong code: two exceptions under one
    # name (fuzz.py), a constant of two floats (network_table.py).
    left_out = ("__init__.py", "errors.py", "plain_swim.py", "fuzz.py", "network_table.py")
    sources = [
        str(path.relative_to(folder))
        for room in ROOMS
        for path in sorted((folder / room).rglob("*.py"))
        if path.name not in left_out
    ]
    mypyc = pathlib.Path(sys.executable).with_name("mypyc")
    done = subprocess.run(
        [mypyc, *sources], cwd=folder, capture_output=True, text=True, timeout=900, check=False
    )
    if done.returncode != 0:
        sys.exit(f"mypyc could not compile the core:\n{done.stdout[-2_000:]}{done.stderr[-2_000:]}")


def main() -> None:
    """Build, then run the benchmark with the rest of the arguments."""
    if len(sys.argv) < 2 or sys.argv[1] not in BENCHMARKS:
        sys.exit(f"usage: python -m tests.benchmarks.compiled {{{','.join(BENCHMARKS)}}} ...")
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        build(folder)
        command = [sys.executable, "-m", f"tests.benchmarks.{sys.argv[1]}", *sys.argv[2:]]
        environment = {**os.environ, "PYTHONPATH": str(folder)}
        sys.exit(subprocess.call(command, cwd=folder, env=environment))


if __name__ == "__main__":
    main()
