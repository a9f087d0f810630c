"""Options and the key of an upstream."""

import pytest

from runtimes.base import RuntimeFailure
from runtimes.openai.settings import KEY_VARIABLE, read_settings
from runtimes.registry import make_source

URL = "http://127.0.0.1:1"


def test_the_registry_knows_it() -> None:
    """`openai:URL` is an upstream, whether or not anything is there."""
    assert make_source(f"openai:{URL}", {}).runtimes == ()


def test_the_key_comes_from_the_environment_or_an_option(monkeypatch: pytest.MonkeyPatch) -> None:
    """The option counts more; no key is none."""
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    assert read_settings(URL, {}).api_key is None
    monkeypatch.setenv(KEY_VARIABLE, " sk-1\n")
    assert read_settings(URL, {}).api_key == "sk-1"
    assert read_settings(URL, {"api_key": "sk-2"}).api_key == "sk-2"


def test_the_key_is_not_in_what_is_printed() -> None:
    """Settings may end up in a log."""
    assert "sk-2" not in repr(read_settings(URL, {"api_key": "sk-2"}))


@pytest.mark.parametrize("key", ["a\r\nx: y", "a b", "é", "k" * 5000])
def test_a_key_that_is_none_is_refused_unseen(key: str) -> None:
    """It could smuggle a header; the line does not repeat it."""
    with pytest.raises(RuntimeFailure, match=KEY_VARIABLE) as failed:
        read_settings(URL, {"api_key": key})
    assert key not in failed.value.message


@pytest.mark.parametrize(
    "options", [{"slots": "0"}, {"slots": "x"}, {"queue": "-1"}, {"see": "2"}, {"a": "b"}]
)
def test_bad_options(options: dict[str, str]) -> None:
    """Each is one line."""
    with pytest.raises(RuntimeFailure) as failed:
        read_settings(URL, options)
    assert failed.value.code == "bad_request"


def test_good_options() -> None:
    """Numbers in text."""
    settings = read_settings(URL, {"slots": "3", "queue": "0", "see": "1"})
    assert (settings.slots, settings.queue_max, settings.sees) == (3, 0, True)
    assert read_settings(URL, {"see": "0"}).sees is False
    assert read_settings(URL, {}).sees is None
