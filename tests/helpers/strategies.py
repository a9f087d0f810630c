"""The one place for hypothesis strategies over everything that goes over the wire or to disk."""

import string

from hypothesis import strategies as st

from protocol.codec import BUCKETS, COORDINATE_ITEMS_MAX
from protocol.crypto import SodiumCrypto, public_key_of
from protocol.identity import INCARNATION_MAX, Address, NodeId, mesh_id_of
from protocol.issuing import (
    Turn,
    make_admission,
    make_api_key,
    make_grant,
    make_invite,
    make_join_proof,
    make_revocation,
)
from protocol.messages import (
    Ack,
    DatagramMessage,
    Difference,
    Digest,
    Entry,
    Gossip,
    Join,
    JoinAnswer,
    Load,
    Nack,
    Origin,
    Ping,
    PingRequest,
    PushPull,
    RelayedAck,
    StreamAck,
    StreamMessage,
    StreamProbe,
)
from protocol.records import JoinProof, Priority, Record, Role, Target
from protocol.sessions import TOKEN_BYTES
from protocol.snapshot import Snapshot
from protocol.statements import (
    RUN_MAX,
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

_later_item = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.binary(max_size=40)
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3).map(tuple),
    max_leaves=6,
)
later_items: st.SearchStrategy[tuple[object, ...]] = st.lists(
    _later_item, min_size=1, max_size=4
).map(tuple)
"""What a later version may append to an array: anything but maps and extension types."""

loads = st.builds(Load, *[st.integers(0, 2**31)] * 3)
origins = st.builds(Origin, node_ids, sequences)
sums = st.integers(0, 2**64 - 1)
coordinates = st.lists(
    # The whole range of msgpack's integers: `coordinates.py` judges what makes sense.
    st.integers(-(2**63), 2**64 - 1),
    max_size=COORDINATE_ITEMS_MAX,
).map(tuple)
datagram_messages: st.SearchStrategy[DatagramMessage] = st.one_of(
    st.builds(
        Ping,
        sequences,
        st.none() | loads,
        st.none() | origins,
        st.none() | sums,
        st.none() | st.binary(min_size=TOKEN_BYTES, max_size=TOKEN_BYTES),
    ),
    st.builds(
        Ack,
        sequences,
        st.none() | loads,
        st.binary(max_size=64),
        st.none() | sums,
        st.none() | coordinates,
    ),
    st.builds(PingRequest, sequences, node_ids),
    st.builds(RelayedAck, sequences, node_ids, signatures),
    st.builds(Nack, sequences, node_ids, st.binary(max_size=300)),
    st.builds(Gossip),
)

join_proofs = st.builds(
    JoinProof, node_ids, st.binary(min_size=32, max_size=32), signatures, signatures
)
_blobs = st.lists(st.binary(max_size=400), max_size=6).map(tuple)
_ids = st.binary(min_size=8, max_size=8)
_buckets = st.binary(min_size=8 * BUCKETS, max_size=8 * BUCKETS)
_entries = st.builds(Entry, _ids, st.integers(0, 2), sequences, sums)
stream_messages: st.SearchStrategy[StreamMessage] = st.one_of(
    st.builds(
        PushPull,
        st.booleans(),
        _blobs,
        _blobs,
        st.none() | st.lists(_ids, max_size=6).map(tuple),
    ),
    st.builds(Join, st.binary(max_size=400), join_proofs),
    st.builds(JoinAnswer, st.text(max_size=64), _blobs, _blobs),
    st.builds(Digest, _buckets, _buckets, _blobs, st.binary(max_size=400)),
    st.builds(
        Difference,
        sums,
        st.lists(_entries, max_size=6).map(tuple),
        sums,
        st.lists(_ids, max_size=6).map(tuple),
    ),
    st.builds(StreamProbe, origins, st.binary(max_size=400)),
    st.builds(StreamAck, origins, signatures, st.binary(max_size=400)),
)

version_ranges = st.tuples(st.integers(1, 255), st.integers(1, 255)).map(
    lambda pair: (min(pair), max(pair))
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
        st.integers(0, RUN_MAX),
        version_ranges,
    ),
    st.builds(make_left, cryptos, st.just(MESH), incarnations),
    st.builds(
        make_accusation,
        cryptos,
        st.just(MESH),
        node_ids,
        incarnations,
        is_dead=st.booleans(),
        is_refused=st.booleans(),
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

_names = st.binary(min_size=16, max_size=16)
_turns = st.builds(Turn, incarnations, _names)
_invites = st.builds(
    make_invite,
    st.sampled_from(SEEDS),
    st.just(MESH),
    key=st.binary(min_size=32, max_size=32),
    turn=_turns,
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
_grants = st.builds(
    make_grant, st.sampled_from(SEEDS), st.just(MESH), subject=node_ids, turn=_turns
)
_revocations = st.builds(
    make_revocation,
    st.sampled_from(SEEDS),
    st.just(MESH),
    target=st.sampled_from(Target),
    subject=node_ids,
    turn=_turns,
    honoured_act=_names,
    honoured_slot=st.integers(0, 1_000_000),
)
_api_keys = st.builds(
    make_api_key,
    st.sampled_from(SEEDS),
    st.just(MESH),
    key_hash=node_ids,
    turn=_turns,
    name=st.text(_printable, min_size=1, max_size=63),
    requests=st.integers(0, 1_000_000),
    period_s=st.integers(1, 86_400),
    priority=st.sampled_from(Priority),
    models=st.text(_printable, max_size=64),
    is_trusted=st.booleans(),
    expires_at_s=st.integers(0, 2**40),
)
records: st.SearchStrategy[Record] = st.one_of(
    _invites, _admissions, _grants, _revocations, _api_keys
)

snapshots = st.builds(
    Snapshot,
    records=_blobs,
    lives=_blobs,
    goodbyes=_blobs,
    deaths=st.lists(st.tuples(node_ids, incarnations), max_size=4).map(tuple),
)
