"""Who is let in, and who is turned away."""

import pytest

from protocol.authority import ADMISSIONS_MAX, Authority
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


class TestAdmitting:
    """The admitting member's decision."""

    invite = A.issue(TOKEN, uses=2, expires_at_s=WALL_S + 100)

    def _ready(self) -> Authority:
        authority = authority_of()
        authority.add(self.invite.wire)
        return authority

    def _proof(self, number: int) -> Admission | JoinRefusal:
        return admit(
            self._ready(), FOUNDER, make_join_proof(TOKEN, CRYPTOS[number], A.mesh), WALL_S
        )

    def test_a_good_one_gets_in(self) -> None:
        """With the invite's role and the first free slot, at once for this node itself."""
        authority = self._ready()
        admission = admit(authority, FOUNDER, make_join_proof(TOKEN, CRYPTOS[0], A.mesh), WALL_S)
        assert isinstance(admission, Admission)
        assert (admission.slot, admission.role, admission.admitter) == (
            1,
            Role.WORKER,
            FOUNDER.node_id,
        )
        assert authority.admission(CRYPTOS[0].node_id) is admission
        elsewhere = self._ready()
        assert elsewhere.add(admission.wire) == [admission]

    def test_the_same_key_twice_takes_one_slot(self) -> None:
        """It gets its old admission again."""
        authority = self._ready()
        proof = make_join_proof(TOKEN, CRYPTOS[0], A.mesh)
        assert admit(authority, FOUNDER, proof, WALL_S) is admit(
            authority, FOUNDER, proof, WALL_S + 10**6
        )
        second = admit(authority, FOUNDER, make_join_proof(TOKEN, CRYPTOS[1], A.mesh), WALL_S)
        assert isinstance(second, Admission)
        assert second.slot == 2

    def test_used_up(self) -> None:
        """Two uses are two."""
        authority = self._ready()
        verdicts = [
            admit(authority, FOUNDER, make_join_proof(TOKEN, CRYPTOS[n], A.mesh), WALL_S)
            for n in range(3)
        ]
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

    def test_full(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A mesh has a limit, and says so."""
        monkeypatch.setattr("protocol.authority.ADMISSIONS_MAX", 1)
        assert self._proof(0) is JoinRefusal.FULL
        assert ADMISSIONS_MAX == 16_384

    def test_not_a_member_itself(self) -> None:
        """Who is not in lets nobody in."""
        authority = Authority(CRYPTOS[5], A.root)
        verdict = admit(authority, CRYPTOS[5], make_join_proof(TOKEN, CRYPTOS[0], A.mesh), WALL_S)
        assert verdict is JoinRefusal.CANNOT_ADMIT
