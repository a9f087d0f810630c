"""The examples of simulations/README.md run as they stand there."""

import pathlib
import re

import pytest

README = pathlib.Path(__file__).parents[2] / "simulations" / "README.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", README.read_text("utf-8"), re.DOTALL)
SCENARIO = re.findall(r"```toml\n(.*?)```", README.read_text("utf-8"), re.DOTALL)


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_runs(
    example: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And makes its figure, if it makes one."""
    if "matplotlib" in example:
        pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    exec(compile(example, str(README), "exec"), {})
    assert ("savefig" in example) == bool(list(tmp_path.iterdir()))


def test_the_file_that_is_shown_can_be_read(tmp_path: pathlib.Path) -> None:
    """As a scenario."""
    from simulations.library import find_scenario

    file = tmp_path / "shown.toml"
    file.write_text(SCENARIO[0])
    assert find_scenario(str(file)).nodes == 50
