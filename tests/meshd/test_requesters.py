"""What serving nodes are told of who is behind a request."""

import hashlib

from meshd.answer import RequestOptions
from meshd.requesters import requester_of
from meshd.trust import api_keys
from meshd.trust.api_keys import KeyPolicy
from protocol.records import Priority
from protocol.requester import ANYBODY, NAME_BYTES_MAX, Requester


def _of(
    key: str | None = None,
    user: str | None = None,
    priority: api_keys.Priority = api_keys.Priority.NORMAL,
    *,
    is_batch: bool = False,
) -> Requester:
    policy = KeyPolicy(name=key, priority=priority) if key is not None else None
    return requester_of(
        RequestOptions(request_id="ab", policy=policy, user=user, is_batch=is_batch)
    )


def test_without_a_key_or_a_user_it_is_anybody() -> None:
    """Nothing is invented."""
    assert _of() == ANYBODY
    assert _of(user="") == ANYBODY


def test_the_same_are_the_same_and_others_are_others() -> None:
    """A user of that name is no key of that name."""
    assert _of("a", "u") == _of("a", "u")
    names = [_of("a").key, _of("b").key, _of(user="a").user, _of(user="b").user]
    assert len(dict.fromkeys(names)) == 4


def test_priority_and_class_go_with_it() -> None:
    """By their names, in the form of the protocol."""
    for priority in api_keys.Priority:
        assert _of("a", priority=priority).priority is Priority[priority.name]
    assert _of(is_batch=True).is_batch


def test_names_are_hashed_under_a_secret() -> None:
    """Who guesses a name cannot check the guess; however long it is, the hash is short."""
    told = _of("a" * 63, "ü\ud800" * 100_000)
    assert 0 < len(told.key) <= NAME_BYTES_MAX
    assert 0 < len(told.user) <= NAME_BYTES_MAX
    guess = hashlib.blake2b(b"a" * 63, digest_size=len(told.key), person=b"key").digest()
    assert told.key != guess
