"""The table [inference]: what it may say, and one clear line for what it may not."""

import pathlib

import pytest

from protocol.config import SECOND
from simulations.inference.arrivals import MILLION, Bursty, Diurnal, Poisson, Recorded, Trace
from simulations.inference.lengths import Constant, Empirical, LogNormal, Uniform
from simulations.inference.machines import counts
from simulations.inference.table import read_workload
from simulations.inference.workload import Workload
from simulations.library import find_scenario, resized
from simulations.section import ScenarioError

TOP = "nodes = 10\nduration_s = 20\n[inference]\n"
RATE = "offered_load = 0.5\n"
LENGTHS = "prompt_tokens = 10\noutput_tokens = 20\n"
MACHINE = "[[inference.machine]]\nclass = 'cpu'\nshare = 1\n"
TRACE = "arrivals = { kind = 'trace', file = 't.csv' }\n"
ROWS = "time_s,prompt_tokens,output_tokens,user,gateway\n"


def _read(folder: pathlib.Path, *lines: str, machine: str = MACHINE) -> Workload:
    path = folder / "mine.toml"
    path.write_text(TOP + "".join(lines) + machine, "utf-8")
    workload = find_scenario(str(path)).inference
    assert workload is not None
    return workload


def test_little_is_enough(tmp_path: pathlib.Path) -> None:
    """How much, how long, and who serves."""
    workload = _read(tmp_path, RATE, LENGTHS)
    assert (workload.prompt, workload.output) == (Constant(10), Constant(20))
    assert (workload.arrivals, workload.policy, workload.gateways) == (Poisson(), "meshd", 1)
    assert workload.load_ppm == MILLION // 2
    assert workload.deadline_ns == 600 * SECOND
    # 10 tokens at 60/s, then 19 at 8/s, on each of ten machines, half of the time
    assert workload.rate_for(10) == pytest.approx(5 * MILLION / (10 / 60 + 19 / 8), rel=1e-5)


def test_everything_can_be_said(tmp_path: pathlib.Path) -> None:
    """In people's units."""
    (tmp_path / "seen.csv").write_text("a,tokens\n1,7\n2,9\n")
    machine = (
        "[[inference.machine]]\nclass = 'rtx4090'\nname = 'big'\ncount = 2\nslots = 3\nqueue = 4\n"
        "prefill_tokens_per_s = 1.5\ndecode_tokens_per_s = 2\nslowdown = 0.25\nload_s = 6\n"
        + MACHINE.replace("share = 1", "share = 0.5")
    )
    workload = _read(
        tmp_path,
        "requests_per_s = 2.5\n",
        "arrivals = { kind = 'bursty', burst_s = 2, quiet_s = 8, factor = 5 }\n",
        "prompt_tokens = { kind = 'log_normal', median = 300, sigma = 1.0, high = 4000 }\n",
        "output_tokens = { kind = 'empirical', file = 'seen.csv', column = 'tokens' }\n",
        "policy = 'random'\nusers = 7\nshares = 'zipf'\ngateways = 3\nlasts_s = 5\n",
        "deadline_s = 9\nmay_continue = true\nload_age_s = [1, 5]\n",
        machine=machine,
    )
    big, cpu = workload.portions
    assert counts(10, workload.portions) == [2, 5]
    assert (big.machine.name, cpu.machine.name) == ("big", "cpu")
    assert (big.machine.prefill_milli, big.machine.decode_milli) == (1_500, 2_000)
    assert (big.machine.slots, big.machine.queue, big.machine.slowdown_ppm) == (3, 4, 250_000)
    assert big.machine.load_ns == 6 * SECOND
    assert workload.arrivals == Bursty(
        burst_ns=2 * SECOND, quiet_ns=8 * SECOND, factor_ppm=5 * MILLION
    )
    assert workload.prompt == LogNormal(300, MILLION, 4_000)
    assert workload.output == Empirical((7, 9))
    assert (workload.policy, workload.users, workload.is_zipf) == ("random", 7, True)
    assert workload.group_names == ("gateways", "big", "cpu")
    assert (workload.lasts_ns, workload.deadline_ns) == (5 * SECOND, 9 * SECOND)
    assert workload.may_continue
    assert workload.told_ns == (SECOND, 5 * SECOND)
    assert workload.rate_for(10) == 2_500_000
    day = _read(tmp_path, RATE, "arrivals = { kind = 'diurnal', period_s = 60 }\n", LENGTHS)
    assert day.arrivals == Diurnal(period_ns=60 * SECOND)
    even = "prompt_tokens = { kind = 'uniform', low = 3, high = 5 }\noutput_tokens = 1\n"
    assert _read(tmp_path, RATE, even).prompt == Uniform(3, 5)


def test_a_trace_says_it_all(tmp_path: pathlib.Path) -> None:
    """In order of time, users by name."""
    (tmp_path / "t.csv").write_text(ROWS + "1.5,10,20,ann,0\n0.25,1,2,bob,1\n2,3,4,ann,0\n")
    workload = _read(tmp_path, TRACE, "gateways = 2\n")
    assert isinstance(workload.arrivals, Trace)
    first, second, third = workload.arrivals.rows
    assert first == Recorded(at_ns=SECOND // 4, prompt_tokens=1, output_tokens=2, user=1, gateway=1)
    assert (second.at_ns, second.user, third.user) == (3 * SECOND // 2, 0, 0)
    assert workload.rate_for(10) == 0


@pytest.mark.parametrize(
    ("lines", "machine", "said"),
    [
        (LENGTHS, MACHINE, "by one of: requests_per_s, offered_load"),
        (RATE + "requests_per_s = 1\n" + LENGTHS, MACHINE, "by one of: requests_per_s"),
        (RATE + "output_tokens = 3\n", MACHINE, "prompt_tokens: it is missing"),
        (RATE + LENGTHS + "polcy = 'x'\n", MACHINE, "'polcy'; did you mean 'policy'?"),
        (RATE + LENGTHS + "policy = 'randm'\n", MACHINE, "did you mean 'random'?"),
        (
            RATE + LENGTHS + "policy = 'zzz'\n",
            MACHINE,
            "policy = 'zzz'; there is:",
        ),
        (RATE + LENGTHS, "", "write [[inference.machine]] at least once"),
        (RATE + LENGTHS, MACHINE + "count = 1\n", "by one of: count, share"),
        (RATE + LENGTHS, MACHINE.replace("cpu", "rtx409"), "did you mean 'rtx4090'?"),
        (RATE + LENGTHS, MACHINE + MACHINE, "two kinds are called 'cpu'"),
        (RATE + LENGTHS, MACHINE + "name = 'gateways'\n", "two kinds are called 'gateways'"),
        (RATE + LENGTHS, MACHINE + "name = 'a b'\n", "letters, digits and _ only"),
        (RATE + LENGTHS, MACHINE + "slots = 0\n", "machine 1: slots = 0 is not in 1 to 1024"),
        (RATE + LENGTHS, MACHINE.replace("share = 1", "count = 11"), "11 machines serve, but"),
        (RATE + LENGTHS, MACHINE.replace("share = 1", "share = 0.01"), "0 machines serve, but"),
        (RATE + LENGTHS + "gateways = 11\n", MACHINE, "gateways = 11, but there are 10 nodes"),
        (RATE + LENGTHS + "arrivals = 3\n", MACHINE, "arrivals: kind is missing"),
        (RATE + LENGTHS + "arrivals = 'poison'\n", MACHINE, "did you mean 'poisson'?"),
        (
            RATE + LENGTHS + "arrivals = { kind = 'bursty', factor = 9 }\n",
            MACHINE,
            "factor = 9 is more than",
        ),
        (RATE + LENGTHS + "arrivals = { kind = 'bursty', x = 9 }\n", MACHINE, "unknown key 'x'"),
        (
            RATE + "output_tokens = 1\nprompt_tokens = { kind = 'uniform', low = 5, high = 3 }\n",
            MACHINE,
            "high = 3 is not in 5",
        ),
        (RATE + "output_tokens = 1\nprompt_tokens = 0\n", MACHINE, "prompt_tokens = 0 is not in"),
        (
            "requests_per_s = 1000000\n" + LENGTHS,
            MACHINE,
            "more than 2000000 requests would come",
        ),
        (TRACE + RATE, MACHINE, "by nothing, a trace has its own"),
        (TRACE + "prompt_tokens = 3\n", MACHINE, "prompt_tokens: a trace has its own"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    tmp_path: pathlib.Path, lines: str, machine: str, said: str
) -> None:
    """With the nearest valid name where there is one."""
    (tmp_path / "t.csv").write_text(ROWS + "1,1,1,a,0\n")
    with pytest.raises(ScenarioError) as caught:
        _read(tmp_path, lines, machine=machine)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "has no rows"),
        (ROWS.encode(), "has no rows"),
        (b"\xff\xfe", "is no CSV text"),
        (b"time_s,prompt\n1,2\n", "has no column"),
        (ROWS.encode() + b"1,1\n", "line 2 has no column"),
        (ROWS.encode() + b"x,1,1,a,0\n", "line 2: time_s = 'x' is not in"),
        (ROWS.encode() + b"nan,1,1,a,0\n", "time_s = 'nan' is not in"),
        (ROWS.encode() + b"-1,1,1,a,0\n", "time_s = '-1' is not in"),
        (ROWS.encode() + b"1,0,1,a,0\n", "prompt_tokens = '0' is not in 1 to 1000000"),
        (ROWS.encode() + b"1,1,1e9,a,0\n", "output_tokens = '1e9' is not in"),
        (ROWS.encode() + b"1,1,1,a,1\n", "the trace has gateway 1; gateways = 1"),
        (None, "cannot read"),
    ],
)
def test_bad_csv_is_said_in_one_line(
    tmp_path: pathlib.Path, content: bytes | None, said: str
) -> None:
    """With the line's number."""
    if content is not None:
        (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(ScenarioError) as caught:
        _read(tmp_path, TRACE)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_is_no_csv(tmp_path: pathlib.Path) -> None:
    """Nor is a device, which would never end."""
    for name in (str(tmp_path), "/dev/zero"):
        with pytest.raises(ScenarioError, match="is no file"):
            _read(tmp_path, f"arrivals = {{ kind = 'trace', file = '{name}' }}\n")


def test_a_table_it_must_be(tmp_path: pathlib.Path) -> None:
    """And what fits must fit to another size, too."""
    with pytest.raises(ScenarioError, match="must be a table"):
        read_workload("x", tmp_path, 3)
    assert resized(find_scenario("inference_poisson"), 20).nodes == 20
    with pytest.raises(ScenarioError, match="gateways = 8, but there are 5 nodes"):
        resized(find_scenario("inference_poisson"), 5)
