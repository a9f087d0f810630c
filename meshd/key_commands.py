"""The one place for the commands about API keys, by the running daemon or, without one, here."""

from collections.abc import Mapping
from typing import Any, Final

import trio

from meshd import clock
from meshd.control import Handler, Streaming, argument
from meshd.failures import ExitCode, UserError
from meshd.home import Home
from meshd.trust.api_keys import ApiKeys, read_policy

EXPIRES_S_MAX: Final = 366 * 86_400


class KeyCommands:
    """Handlers by name, for `serve_control`."""

    def __init__(self, keys: ApiKeys) -> None:
        self._keys = keys
        self._changing = trio.Lock()
        """Held by whoever changes the keys: they are written to disk in a thread."""

    def handlers(self) -> dict[str, Handler | Streaming]:
        """What may be asked."""
        return {
            "key_create": self.create,
            "key_list": self.list,
            "key_revoke": self.revoke,
        }

    async def create(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """Make a key: `{"name", "key", "expires_at_s"}`. This is the only time it is shown."""
        policy = read_policy(arguments)
        wall_s = clock.wall_s()
        expires_at_s = _expires_at_s(arguments.get("expires_s"), wall_s)
        async with self._changing:
            text = await trio.to_thread.run_sync(
                lambda: self._keys.create(policy, wall_s=wall_s, expires_at_s=expires_at_s)
            )
        return {"name": policy.name, "key": text, "expires_at_s": expires_at_s}

    async def list(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """All keys, without their texts."""
        del arguments
        return {"keys": self._keys.rows(clock.wall_s())}

    async def revoke(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """Refuse a key from the next request on."""
        name = argument(arguments, "name", str)
        async with self._changing:
            await trio.to_thread.run_sync(self._keys.revoke, name)
        return {"name": name}


async def key_command_offline(
    home: Home, do: str, arguments: Mapping[str, Any]
) -> Mapping[str, Any]:
    """One of the commands while no daemon runs. Raises UserError, also when one does."""
    with home.locked():
        handler = KeyCommands(ApiKeys(home)).handlers()[do]
        assert not isinstance(handler, Streaming)
        return await handler(arguments)


def _expires_at_s(expires_s: object, wall_s: int) -> int | None:
    if expires_s is None:
        return None
    if type(expires_s) is not int or not 1 <= expires_s <= EXPIRES_S_MAX:
        raise UserError("the key's expiry is out of range", ExitCode.WRONG_USAGE)
    return wall_s + expires_s
