"""The one place for how long to wait before something that ended is begun again."""

import dataclasses


@dataclasses.dataclass(slots=True)
class RestartDelay:
    """Longer each time, short again after good health."""

    least_s: float = 0.5
    most_s: float = 30.0
    healthy_s: float = 60.0
    """A worker that was up for so long has forgiven the ones before it."""
    _next_s: float = dataclasses.field(default=0.0, init=False)

    def after(self, up_s: float) -> float:
        """The wait, in seconds, after a worker that was up for `up_s`."""
        if up_s >= self.healthy_s or self._next_s == 0.0:
            self._next_s = self.least_s
        delay_s = self._next_s
        self._next_s = min(self.most_s, 2 * delay_s)
        return delay_s
