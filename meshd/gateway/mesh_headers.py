"""The one place for the `x-meshd-*` headers: what a request demands, and who serves it."""

from collections.abc import Collection

from meshd.answer import Answer, RequestOptions
from meshd.failures import UserError
from meshd.gateway.errors import Refusal
from meshd.gateway.exchange import Exchange, HeaderList
from meshd.options import parse_labels
from protocol.policies import POLICIES

_NODE_CHARS_MAX = 128
_TIERS = ("1", "2", "3")
_CLASSES = {"interactive": False, "batch": True}
_QUANTIZATIONS = {"same": False, "any": True}
_YES_AND_NO = {"1": True, "true": True, "0": False, "false": False}


def request_options(exchange: Exchange) -> RequestOptions:
    """What the request's headers demand. Raises Refusal."""
    node = exchange.headers.get("x-meshd-node")
    if node is not None and not (0 < len(node) <= _NODE_CHARS_MAX and node.isascii()):
        raise Refusal(
            "bad_request", "x-meshd-node must be a node's name or id.", param="x-meshd-node"
        )
    ranking = exchange.headers.get("x-meshd-policy")
    if ranking is not None:
        _one_of(exchange, "x-meshd-policy", POLICIES)
    tier = exchange.headers.get("x-meshd-tier")
    policy = exchange.policy
    return RequestOptions(
        request_id=exchange.request_id,
        ranking=ranking,
        node=node,
        labels=_labels(exchange),
        tier_max=None if tier is None else int(_one_of(exchange, "x-meshd-tier", _TIERS)),
        any_quantization=_QUANTIZATIONS[
            _one_of(exchange, "x-meshd-quantization", _QUANTIZATIONS, usual="same")
        ],
        policy=policy,
        is_trusted_only=_is_asked_for(exchange, "x-meshd-trusted")
        or (policy is not None and policy.is_trusted),
        is_batch=_CLASSES[_one_of(exchange, "x-meshd-class", _CLASSES, usual="interactive")],
        may_hedge=_is_asked_for(exchange, "x-meshd-hedge"),
        is_impatient=not _is_asked_for(exchange, "x-meshd-wait", usual="1"),
    )


def _labels(exchange: Exchange) -> dict[str, str]:
    """Of one or more headers, each of one or more labels between commas. Raises Refusal."""
    name = "x-meshd-label"
    try:
        # Headers are bytes, which Starlette reads as Latin-1.
        lines = [line.encode("latin-1").decode() for line in exchange.headers.getlist(name)]
        return parse_labels(text.strip() for line in lines for text in line.split(","))
    except UnicodeDecodeError:
        raise Refusal("bad_request", f"{name} must be UTF-8.", param=name) from None
    except UserError as error:
        raise Refusal("bad_request", f"{name}: {error}.", param=name) from None


def _one_of(
    exchange: Exchange, header: str, words: Collection[str], *, usual: str | None = None
) -> str:
    word = exchange.headers.get(header, usual or "").lower()
    if word not in words:
        raise Refusal("bad_request", f"{header} must be one of {', '.join(words)}.", param=header)
    return word


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
