"""The one place for the commands about API keys, by the running daemon or, without one, here."""

from collections.abc import Callable, Mapping
from typing import Any, Final

import trio

from meshd import clock
from meshd.control import Handler, Streaming, argument
from meshd.failures import ExitCode, UserError
from meshd.home import Home
from meshd.trust.api_keys import ApiKeys, read_policy
from meshd.trust.mesh_keys import MeshKeys

EXPIRES_S_MAX: Final = 366 * 86_400


class KeyCommands:
    """Handlers by name, for `serve_control`."""

    def __init__(
        self,
        keys: ApiKeys,
        mesh_keys: MeshKeys | None = None,
        note: Callable[..., None] = lambda kind, **fields: None,
    ) -> None:
        """`mesh_keys`: None without a running node; `note` writes to the audit log."""
        self._keys = keys
        self._mesh_keys = mesh_keys
        self._note = note
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
        is_mesh = bool(arguments.get("mesh"))
        async with self._changing:
            if is_mesh:
                text = await self._of_mesh().create(
                    policy, wall_s=wall_s, expires_at_s=expires_at_s
                )
            else:
                text = await trio.to_thread.run_sync(
                    lambda: self._keys.create(policy, wall_s=wall_s, expires_at_s=expires_at_s)
                )
        self._note("key.created", name=policy.name, mesh=is_mesh, expires_at=expires_at_s)
        return {"name": policy.name, "key": text, "expires_at_s": expires_at_s}

    async def list(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """All keys, without their texts."""
        del arguments
        wall_s = clock.wall_s()
        rows = [{**row, "mesh": False} for row in self._keys.rows(wall_s)]
        if self._mesh_keys is not None:
            rows += [{**row, "mesh": True} for row in self._mesh_keys.rows(wall_s)]
        return {"keys": rows}

    async def revoke(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """Refuse a key from the next request on."""
        name = argument(arguments, "name", str)
        is_mesh = bool(arguments.get("mesh"))
        async with self._changing:
            if is_mesh:
                await self._of_mesh().revoke(name, wall_s=clock.wall_s())
            else:
                await trio.to_thread.run_sync(self._keys.revoke, name)
        self._note("key.revoked", name=name, mesh=is_mesh)
        return {"name": name}

    def _of_mesh(self) -> MeshKeys:
        if self._mesh_keys is None:
            raise UserError(
                "only a running node can change the mesh's keys; start it with: meshd up",
                ExitCode.NO_DAEMON,
            )
        return self._mesh_keys


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
