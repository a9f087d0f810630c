"""The one place for the `x-meshd-*` headers: what a request demands, and who serves it."""

from meshd.answer import Answer, RequestOptions
from meshd.gateway.errors import Refusal
from meshd.gateway.exchange import Exchange, HeaderList
from protocol.policies import POLICIES

_NODE_CHARS_MAX = 128
_DEMANDS_TO_COME = ("x-meshd-label",)
_CLASSES = {"interactive": False, "batch": True}
_YES_AND_NO = {"1": True, "true": True, "0": False, "false": False}


def request_options(exchange: Exchange) -> RequestOptions:
    """What the request's headers demand. Raises Refusal."""
    for name in _DEMANDS_TO_COME:
        if name in exchange.headers:
            # A demand that is silently not met would be a broken promise.
            raise Refusal("unsupported", f"The header {name} is not supported yet.", param=name)
    node = exchange.headers.get("x-meshd-node")
    if node is not None and not (0 < len(node) <= _NODE_CHARS_MAX and node.isascii()):
        raise Refusal(
            "bad_request", "x-meshd-node must be a node's name or id.", param="x-meshd-node"
        )
    ranking = exchange.headers.get("x-meshd-policy")
    if ranking is not None and ranking not in POLICIES:
        raise Refusal(
            "bad_request",
            f"x-meshd-policy must be one of {', '.join(POLICIES)}.",
            param="x-meshd-policy",
        )
    is_batch = _CLASSES.get(exchange.headers.get("x-meshd-class", "interactive").lower())
    if is_batch is None:
        raise Refusal(
            "bad_request",
            f"x-meshd-class must be one of {', '.join(_CLASSES)}.",
            param="x-meshd-class",
        )
    policy = exchange.policy
    return RequestOptions(
        request_id=exchange.request_id,
        ranking=ranking,
        node=node,
        policy=policy,
        is_trusted_only=_is_asked_for(exchange, "x-meshd-trusted")
        or (policy is not None and policy.is_trusted),
        is_batch=is_batch,
        may_hedge=_is_asked_for(exchange, "x-meshd-hedge"),
        is_impatient=not _is_asked_for(exchange, "x-meshd-wait", usual="1"),
    )


def _is_asked_for(exchange: Exchange, header: str, usual: str = "0") -> bool:
    wanted = _YES_AND_NO.get(exchange.headers.get(header, usual).lower())
    if wanted is None:
        raise Refusal("bad_request", f"{header} must be 1 or 0.", param=header)
    return wanted


def served_by(answer: Answer | None) -> HeaderList:
    """The headers that say who serves, as far as it is known now; None: nobody does yet."""
    if answer is None:
        return []
    return [
        ("x-meshd-node", answer.node_name),
        ("x-meshd-node-id", answer.node_id),
        ("x-meshd-resumed", str(answer.resumed)),
    ]
