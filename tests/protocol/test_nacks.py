"""What helpers say that hear nothing either: each answers for its own word."""

from protocol.errors import DropReason
from protocol.members import State
from protocol.messages import Nack
from protocol.statements import make_accusation
from tests.helpers.nodes import Mesh
from tests.helpers.taps import STEP, Tap, run, tapped, to_the_end, until_asked


def _word(mesh: Mesh, helper: Tap, target: Tap, *, is_refused: bool = False) -> bytes:
    """What a helper signs that hears nothing of the target either."""
    incarnation = mesh[0].members.incarnation(target.id)
    return make_accusation(
        helper.insider.crypto,
        mesh.authorities.mesh,
        target.id,
        incarnation,
        is_dead=False,
        is_refused=is_refused,
    ).wire


class TestNacks:
    """Helpers that hear nothing either."""

    def test_a_nack_counts_as_its_helpers_accusation_at_the_end(self) -> None:
        """Not before: until the end of the interval nobody is suspected."""
        mesh, (helper, target, third, fourth) = tapped(5, 1, 2, 3, 4)
        request = until_asked(mesh, target, helper, third, fourth)
        word = _word(mesh, helper, target)
        assert helper.say(0, Nack(request.sequence, target.id, word)) == []
        run(mesh, STEP)
        assert mesh.state(0, 2) is State.ALIVE
        to_the_end(mesh, request, helper)
        assert list(mesh[0].members.suspicions[target.id].accusers) == [mesh.id(0), helper.id]

    def test_who_was_not_asked_says_nothing(self) -> None:
        """Another number, another target, or not one of the helpers."""
        mesh, (helper, target) = tapped(3, 1, 2)
        request = until_asked(mesh, target, helper)
        for sender, number, subject in (
            (helper, request.sequence + 1, target.id),
            (helper, request.sequence, helper.id),
            (target, request.sequence, target.id),
        ):
            assert sender.say(0, Nack(number, subject, b"")) == [DropReason.UNEXPECTED]
        to_the_end(mesh, request)
        late = helper.say(0, Nack(request.sequence, target.id, _word(mesh, helper, target)))
        assert late == [DropReason.UNEXPECTED]
        assert list(mesh[0].members.suspicions[target.id].accusers) == [mesh.id(0)]

    def test_a_helper_answers_for_what_it_signs(self) -> None:
        """A forged accusation is refused at the verdict; our own stands."""
        mesh, (helper, target) = tapped(3, 1, 2)
        request = until_asked(mesh, target, helper)
        word = bytearray(_word(mesh, helper, target))
        word[-1] ^= 1
        helper.say(0, Nack(request.sequence, target.id, bytes(word)))
        mesh.machines[0].log.clear()
        to_the_end(mesh, request)
        assert DropReason.BAD_SIGNATURE in mesh.machines[0].drops()
        assert list(mesh[0].members.suspicions[target.id].accusers) == [mesh.id(0)]
