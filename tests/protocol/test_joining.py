"""Who is let in, and who is turned away."""

from protocol.authority import Authority
from protocol.crypto import SodiumCrypto
from protocol.issuing import make_join_proof
from protocol.joining import JoinRefusal, admit
from protocol.records import Admission, Role
from tests.helpers.nodes import WALL_S, Authorities, seed_of

A = Authorities()
FOUNDER = A.founder
CRYPTOS = [SodiumCrypto(seed_of("authority", n)) for n in range(6)]
TOKEN = seed_of("token")


def authority_of(crypto: SodiumCrypto = FOUNDER) -> Authority:
    """What knows the founder."""
    authority = Authority(crypto, A.root)
    authority.add(A.invite.wire)
    authority.add(A.founding.wire)
    return authority


def admitted(authority: Authority, number: int, wall_s: int = WALL_S) -> Admission | JoinRefusal:
    """The decision about a newcomer with the token, and what follows from it."""
    verdict = admit(authority, FOUNDER, make_join_proof(TOKEN, CRYPTOS[number], A.mesh), wall_s)
    if isinstance(verdict, Admission) and not authority.is_counting(verdict.wire):
        authority.add(verdict.wire)
    return verdict


class TestAdmitting:
    """The admitting member's decision."""

    invite = A.issue(TOKEN, uses=2, expires_at_s=WALL_S + 100)

    def _ready(self) -> Authority:
        authority = authority_of()
        authority.add(self.invite.wire)
        return authority

    def test_a_good_one_gets_in(self) -> None:
        """With the invite's role and the first free slot."""
        admission = admitted(self._ready(), 0)
        assert isinstance(admission, Admission)
        assert (admission.slot, admission.role, admission.admitter) == (
            1,
            Role.WORKER,
            FOUNDER.node_id,
        )
        elsewhere = self._ready()
        assert elsewhere.add(admission.wire) == [admission]

    def test_the_same_key_twice_takes_one_slot(self) -> None:
        """It gets its old admission again."""
        authority = self._ready()
        first, again = admitted(authority, 0), admitted(authority, 0, WALL_S + 10**6)
        assert isinstance(first, Admission)
        assert again == first
        second = admitted(authority, 1)
        assert isinstance(second, Admission)
        assert second.slot == 2

    def test_used_up(self) -> None:
        """Two uses are two."""
        authority = self._ready()
        verdicts = [admitted(authority, n) for n in range(3)]
        assert verdicts[2] is JoinRefusal.USED_UP

    def test_expired(self) -> None:
        """By the admitting member's clock, to the second."""
        proof = make_join_proof(TOKEN, CRYPTOS[0], A.mesh)
        assert isinstance(admit(self._ready(), FOUNDER, proof, WALL_S + 99), Admission)
        assert admit(self._ready(), FOUNDER, proof, WALL_S + 100) is JoinRefusal.EXPIRED

    def test_unknown(self) -> None:
        """An invite that nobody has heard of."""
        proof = make_join_proof(seed_of("nothing"), CRYPTOS[0], A.mesh)
        assert admit(self._ready(), FOUNDER, proof, WALL_S) is JoinRefusal.UNKNOWN_INVITE

    def test_bad_proof(self) -> None:
        """Without the token's key, or for another mesh."""
        other = Authorities("other mesh")
        bad = make_join_proof(TOKEN, CRYPTOS[0], other.mesh)
        assert admit(self._ready(), FOUNDER, bad, WALL_S) is JoinRefusal.BAD_PROOF

    def test_admins_are_let_in_by_admins(self) -> None:
        """A worker lets workers in, and sends who would be an admin to another member."""
        authority = self._ready()
        worker = admitted(authority, 0)
        assert isinstance(worker, Admission)
        authority.add(A.issue(seed_of("admins"), uses=1, role=Role.ADMIN).wire)
        proof = make_join_proof(seed_of("admins"), CRYPTOS[2], A.mesh)
        assert admit(authority, CRYPTOS[0], proof, WALL_S) is JoinRefusal.CANNOT_ADMIT
        assert isinstance(admit(authority, FOUNDER, proof, WALL_S), Admission)

    def test_not_a_member_itself(self) -> None:
        """Who is not in lets nobody in."""
        authority = Authority(CRYPTOS[5], A.root)
        verdict = admit(authority, CRYPTOS[5], make_join_proof(TOKEN, CRYPTOS[0], A.mesh), WALL_S)
        assert verdict is JoinRefusal.CANNOT_ADMIT
