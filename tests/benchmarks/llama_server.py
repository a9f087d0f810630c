"""Builds the llama-server to measure against, from the very llama.cpp that llama-cpp-python is.

The package's source archive holds all of llama.cpp. It is downloaded with pip in the version that
is installed here, and only `llama-server` is built of it, once: it is kept in the user's cache
folder. `CMAKE_ARGS` means what it means to llama-cpp-python; give both the same.

Run: python -m tests.benchmarks.llama_server [--jobs 1]
Needs cmake, a C++ compiler, and an index that pip reaches; prints the program's path.
"""

import argparse
import importlib.metadata
import os
import pathlib
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile

import platformdirs

PACKAGE = "llama-cpp-python"
OPTIONS = (
    *("-DCMAKE_BUILD_TYPE=Release", "-DBUILD_SHARED_LIBS=OFF"),
    *("-DLLAMA_BUILD_TESTS=OFF", "-DLLAMA_BUILD_EXAMPLES=OFF", "-DLLAMA_BUILD_APP=OFF"),
    *("-DLLAMA_BUILD_UI=OFF", "-DLLAMA_USE_PREBUILT_UI=OFF", "-DLLAMA_OPENSSL=OFF"),
)
NICENESS = 10


class NotBuilt(Exception):
    """There is no llama-server; the message says how to get one."""


def cached_path() -> pathlib.Path:
    """Where the llama-server of the installed version lies, or will."""
    version = importlib.metadata.version(PACKAGE)
    folder = pathlib.Path(platformdirs.user_cache_dir("meshd")) / "benchmarks"
    return folder / f"llama-server-{version}"


def llama_server() -> pathlib.Path:
    """The program. Raises NotBuilt."""
    path = cached_path()
    if not path.is_file():
        raise NotBuilt(f"{path} is missing: run python -m tests.benchmarks.llama_server")
    return path


def build(jobs: int) -> pathlib.Path:
    """Download, compile, keep. Raises CalledProcessError where a step fails."""
    target = cached_path()
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        version = importlib.metadata.version(PACKAGE)
        pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", PACKAGE]
        _run([*pip, "--dest", name, f"{PACKAGE}=={version}"])
        (archive,) = folder.glob("*.tar.gz")
        with tarfile.open(archive) as files:
            files.extractall(folder, filter="data")
        (source,) = folder.glob("*/vendor/llama.cpp")
        arguments = shlex.split(os.environ.get("CMAKE_ARGS", ""))
        _run(["cmake", "-S", str(source), "-B", f"{name}/build", *OPTIONS, *arguments])
        _run(["cmake", "--build", f"{name}/build", "--target", "llama-server", "-j", str(jobs)])
        made = target.with_suffix(".new")
        shutil.copy2(folder / "build" / "bin" / "llama-server", made)
        made.replace(target)
    return target


def _run(command: list[str]) -> None:
    print(shlex.join(command), file=sys.stderr, flush=True)
    done = ["nice", "-n", str(NICENESS)] if shutil.which("nice") else []
    subprocess.run([*done, *command], check=True, stdout=sys.stderr)


def main() -> None:
    """Build it unless it is there, and say where it is."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--jobs", type=int, default=1)
    jobs = parser.parse_args().jobs
    print(cached_path() if cached_path().is_file() else build(jobs))


if __name__ == "__main__":
    main()
