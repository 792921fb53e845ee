"""What is seen of the steps between two lines of the log."""

import jax
import numpy as np

Window = list[dict[str, float]]
"""The metrics of each step of a log period."""


class LogPeriod:
    """The steps since the last line of the log.

    Args:
      seen: what a stopped run had seen of the period in which it stopped.

    Attributes:
      seen: the metrics of each step. before_bad: `seen` as it was before the bad steps that came last.
      bad_in_a_row: how many of these there are now.
    """

    def __init__(self, seen: Window):
        self.seen, self.before_bad, self.bad_in_a_row = seen, list[dict[str, float]](), 0

    def take(self, metrics: dict[str, jax.Array]) -> None:
        """Waits for the metrics of a step. Python's numbers go through JSON unchanged, to the bit."""
        figures = {name: value.item() for name, value in jax.device_get(metrics).items()}
        self.bad_in_a_row = int(figures["bad_steps"])
        if self.bad_in_a_row == 1:
            self.before_bad = list(self.seen)
        self.seen.append(figures)

    def end(self) -> dict[str, float]:
        """The figures of the period that ends: see `summarise`."""
        figures = summarise(self.seen)
        self.seen = []
        return figures


def summarise(window: Window) -> dict[str, float]:
    """A log period's figures: means over its good steps, NaN where it had none; `bad_steps` is how many were not good.

    Args:
      window: the metrics of each step of the period; their `bad_steps` counts bad steps in a row.
    """
    good = [m for m in window if m["bad_steps"] == 0]
    means = {name: float(np.mean([m[name] for m in good])) if good else float("nan") for name in window[0]}
    return means | {"bad_steps": len(window) - len(good)}
