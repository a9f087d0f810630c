"""Views and truth, counted as they change, against counting all anew."""

from hypothesis import given
from hypothesis import strategies as st

from protocol.members import State
from simulations.agreement import Agreement

SIZE = 4
STATES = {"present": State.ALIVE, "suspect": State.SUSPECT, "gone": State.DEAD}
changes = st.lists(
    st.tuples(
        st.sampled_from(("begin", "end", "present", "suspect", "gone")),
        st.integers(0, SIZE - 1),
        st.integers(0, SIZE - 1),
    ),
    max_size=60,
)


@given(changes)
def test_the_count_is_what_counting_anew_gives(story: list[tuple[str, int, int]]) -> None:
    """After any sequence of starts, ends and changes of views."""
    agreement = Agreement(SIZE)
    running: dict[int, None] = {}
    views: list[dict[int, bool]] = [{} for _ in range(SIZE)]
    for what, one, other in story:
        match what:
            case "begin":
                agreement.begin(one)
                running[one] = None
                views[one].clear()
            case "end":
                agreement.end(one)
                running.pop(one, None)
                views[one].clear()
            case _:
                is_suspect = what == "suspect"
                is_present = what != "gone"
                agreement.note(one, other, STATES[what])
                if one in running and is_present:
                    views[one][other] = is_suspect
                elif one in running:
                    views[one].pop(other, None)
        pairs = [(observer, subject) for observer in running for subject in range(SIZE)]
        wrong = sum(
            (subject in views[observer]) != (subject in running) for observer, subject in pairs
        )
        assert agreement.wrong == wrong
        assert agreement.suspected == sum(sum(views[observer].values()) for observer in running)


def test_a_whole_mesh_agrees() -> None:
    """Those that run see just each other; from there the count goes on."""
    agreement = Agreement(SIZE)
    for host in (0, 1, 2):
        agreement.begin(host)
    agreement.begin_whole()
    assert (agreement.wrong, agreement.suspected) == (0, 0)
    agreement.end(2)
    assert agreement.wrong == 2
    agreement.note(0, 2, State.DEAD)
    agreement.note(1, 2, State.LEFT)
    assert agreement.wrong == 0
