"""The one place where a pairing code that somebody typed is exchanged for a token."""

from meshd.cli import terminal
from meshd.failures import UserError
from meshd.home import Home
from meshd.options import parse_host_port, wrong_usage


def is_code(text: str) -> bool:
    """Whether this is meant to be what `meshd pair` shows: a token begins with a letter."""
    return text.strip()[:1].isdigit()


def token_by_code(home: Home, text: str, at: str | None) -> str:
    """The token of the offer that waits for this code: at HOST:PORT, else on the local network.

    A home that could not join leaves the offer as it is. Raises UserError.
    """
    from meshd.trust.pairing import read_code  # loads msgpack

    code = read_code(text)
    if code is None:
        raise wrong_usage("this is no pairing code: it has ten digits, such as 47-3915-8206")
    place = None if at is None else parse_host_port(at, what="--at")
    if place is not None and place[1] == 0:
        raise wrong_usage("--at: meshd pair prints the real port, not 0")
    import trio  # slow to import, and only here

    from meshd import logs
    from meshd.joining import check_mesh_joinable
    from meshd.pairing_search import Search
    from protocol.identity import Address, MeshId

    logs.configure()

    def may_join(mesh: MeshId) -> None:
        if not check_mesh_joinable(home, mesh):
            raise UserError("this node is in that mesh already; the code was not used up")

    search = Search(code, may_join)
    with terminal.progress("looking for the other machine ..."):
        if place is not None:
            return trio.run(search.at, Address(*place))
        return trio.run(search.on_lan)
