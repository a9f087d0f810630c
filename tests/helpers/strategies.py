"""The one place for hypothesis strategies over everything that goes over the wire or to disk."""

import string

from hypothesis import strategies as st

from protocol.crypto import SodiumCrypto, public_key_of
from protocol.identity import INCARNATION_MAX, Address, NodeId, mesh_id_of
from protocol.messages import (
    Ack,
    DatagramMessage,
    Gossip,
    Join,
    JoinAnswer,
    Load,
    Origin,
    Ping,
    PingRequest,
    PushPull,
    RelayedAck,
    StreamMessage,
)
from protocol.records import (
    JoinProof,
    Record,
    Role,
    make_admission,
    make_invite,
    make_join_proof,
)
from protocol.snapshot import Snapshot
from protocol.statements import (
    Statement,
    make_accusation,
    make_alive,
    make_left,
    make_offer,
)
from tests.helpers.nodes import seed_of

SEEDS = tuple(seed_of("strategy", index) for index in range(4))
CRYPTOS = tuple(SodiumCrypto(seed) for seed in SEEDS)
MESH = mesh_id_of(public_key_of(seed_of("strategy root")))

sequences = st.integers(0, INCARNATION_MAX)
incarnations = st.integers(1, INCARNATION_MAX)
cryptos = st.sampled_from(CRYPTOS)
node_ids = st.binary(min_size=32, max_size=32).map(NodeId)
signatures = st.binary(min_size=64, max_size=64)
names = st.text(string.ascii_lowercase + string.digits + "-", min_size=1, max_size=63)
ports = st.integers(1, 65535)
hosts = (
    st.ip_addresses()
    .filter(lambda ip: not ip.is_unspecified and not ip.is_multicast)
    .map(str)
    .filter(lambda text: "%" not in text)
)
addresses = st.builds(Address, hosts, ports)
_printable = st.characters(min_codepoint=32, max_codepoint=126)

loads = st.builds(Load, *[st.integers(0, 2**31)] * 3)
datagram_messages: st.SearchStrategy[DatagramMessage] = st.one_of(
    st.builds(
        Ping,
        sequences,
        st.none() | loads,
        st.none() | st.builds(Origin, node_ids, sequences),
    ),
    st.builds(Ack, sequences, st.none() | loads, st.binary(max_size=64)),
    st.builds(PingRequest, sequences, node_ids),
    st.builds(RelayedAck, sequences, node_ids, signatures),
    st.builds(Gossip),
)

join_proofs = st.builds(
    JoinProof, node_ids, st.binary(min_size=32, max_size=32), signatures, signatures
)
_blobs = st.lists(st.binary(max_size=400), max_size=6).map(tuple)
stream_messages: st.SearchStrategy[StreamMessage] = st.one_of(
    st.builds(PushPull, st.booleans(), _blobs, _blobs),
    st.builds(Join, st.binary(max_size=400), join_proofs),
    st.builds(JoinAnswer, st.text(max_size=64), _blobs, _blobs),
)

statements: st.SearchStrategy[Statement] = st.one_of(
    st.builds(
        make_alive,
        cryptos,
        st.just(MESH),
        incarnations,
        names,
        st.lists(addresses, min_size=1, max_size=4).map(tuple),
        st.text(_printable, max_size=32),
    ),
    st.builds(make_left, cryptos, st.just(MESH), incarnations),
    st.builds(
        make_accusation,
        cryptos,
        st.just(MESH),
        node_ids,
        incarnations,
        is_dead=st.booleans(),
    ),
    st.builds(
        make_offer,
        cryptos,
        st.just(MESH),
        incarnations,
        st.text(_printable, min_size=1, max_size=64),
        st.binary(max_size=700),
    ),
)

_invites = st.builds(
    make_invite,
    st.sampled_from(SEEDS),
    st.just(MESH),
    key=st.binary(min_size=32, max_size=32),
    act=incarnations,
    role=st.sampled_from(Role),
    expires_at_s=st.integers(0, 2**40),
    uses=st.integers(1, 1_000_000),
    is_trusted=st.booleans(),
    owner=st.text(_printable, min_size=1, max_size=63),
)
_admissions = st.builds(
    make_admission,
    cryptos,
    st.just(MESH),
    st.builds(make_join_proof, st.sampled_from(SEEDS), cryptos, st.just(MESH)),
    role=st.sampled_from(Role),
    slot=st.integers(1, 1_000_000),
    admitted_at_s=st.integers(0, 2**40),
)
records: st.SearchStrategy[Record] = st.one_of(_invites, _admissions)

snapshots = st.builds(
    Snapshot,
    records=_blobs,
    lives=_blobs,
    goodbyes=_blobs,
    deaths=st.lists(st.tuples(node_ids, incarnations), max_size=4).map(tuple),
)
