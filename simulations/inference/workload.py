"""The one place for what an inference workload is: who serves, what is asked, who chooses."""

import dataclasses
import operator
from typing import Final

from simulations.inference.arrivals import Arrivals, Trace
from simulations.inference.lengths import Lengths
from simulations.inference.machines import MILLION, Portion, counts

GATEWAYS: Final = "gateways"
"""What the nodes that apps ask are called, for acts."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Everything about it but the seed."""

    portions: tuple[Portion, ...]
    """What the nodes are; those left over serve nothing."""
    prompt: Lengths
    output: Lengths
    arrivals: Arrivals
    policy: str = "meshd"
    rate_uhz: int = 0
    """Requests per 10**6 s in the mean; 0: by `load_ppm`."""
    load_ppm: int = 0
    """Offered load, in millionths of what all machines can do."""
    users: int = 1
    is_zipf: bool = False
    """The k-th user asks 1 / k as often as the first; else all ask alike."""
    gateways: int = 1
    """The first so many nodes are those that apps ask; a user always asks the same."""
    lasts_ns: int | None = None
    """Requests come for so long; None: until the scenario ends."""
    deadline_ns: int
    """A request that is not complete by then has failed; the daemon's default is 600 s."""
    may_continue: bool = True
    """A stream that breaks after its first token goes on elsewhere, as the daemon's do."""
    has_one_owner: bool = True
    """All nodes are one person's; else each is somebody else's."""
    told_ns: tuple[int, int] | None = None
    """Gateways know loads as they were so long ago, in the place of what gossip told them."""

    @property
    def group_names(self) -> tuple[str, ...]:
        """Groups that acts may name: each class of machines, and the gateways."""
        return (GATEWAYS, *(portion.machine.name for portion in self.portions))

    def rate_for(self, nodes: int) -> int:
        """Requests per 10**6 s with so many nodes."""
        if self.rate_uhz or isinstance(self.arrivals, Trace):
            return self.rate_uhz
        return self.capacity_uhz(nodes) * self.load_ppm // MILLION

    def capacity_uhz(self, nodes: int) -> int:
        """What all machines together can complete in 10**6 s."""
        sizes = self.prompt.mean_milli(), self.output.mean_milli()
        each = [portion.machine.capacity_uhz(*sizes) for portion in self.portions]
        return sum(map(operator.mul, counts(nodes, self.portions), each))
