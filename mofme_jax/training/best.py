"""The checkpoint that validation found best, kept apart from the newest."""

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp

from mofme_jax.files import NotSaved, cannot_be_read, first_line, why_not_written
from mofme_jax.training import processes
from mofme_jax.training.checkpoint import OF_THE_MACHINE, begin_save, may_be_whole
from mofme_jax.training.folders import BEST, steps_in
from mofme_jax.training.retention import open_manager
from mofme_jax.training.state import TrainState


class Best:
    """`<workdir>/best/<step>`, a checkpoint as those in `checkpoints` are. How good it is stands in what is saved.

    It is written before the run takes its next step: a run that is killed and goes on ends with the same best.

    Args:
      workdir: absolute path. config: plain dict, saved with it. hold: see `only_run`; called before it is written.

    Raises:
      OSError: one does not let itself be read; it stays.

    Attributes:
      gain: of it, dB; minus infinity without one. place: its folder; None without one.
    """

    def __init__(self, workdir: Path, config: dict, hold: Callable[[], None]):
        self.gain: float
        self.place: Path | None
        self._folder, self._config, self._hold = workdir / BEST, config, hold
        self.gain, self.place = -np.inf, None
        if not processes.first_says(self._folder.is_dir()):
            return
        with closing(open_manager(self._folder, 1)) as manager:
            for step in steps_in(self._folder):
                try:
                    data = manager.restore(step, args=ocp.args.Composite(data=ocp.args.JsonRestore())).data
                    gain = float(data["gain"])
                except OF_THE_MACHINE:
                    raise
                except Exception as error:  # see Checkpoints.restore
                    if cannot_be_read(error):
                        raise may_be_whole(self._folder / str(step), error) from error
                    processes.say(
                        f"{self._folder / str(step)} cannot be read ({first_line(error)}): the next best is kept"
                    )
                    continue
                if gain > self.gain:
                    self.gain, self.place = gain, self._folder / str(step)

    def offer(self, gain: float, state: TrainState, progress: dict) -> None:
        """Keeps the state in the place of that before, where its gain is higher.

        A save that goes on elsewhere must have been waited for: processes would meet at the wrong one.

        Args:
          gain: mean gain of its averaged parameters, dB; of several processes that of the first counts for all.
          state, progress: see `Checkpoints.save`.

        Raises:
          NotSaved: one of several processes cannot write its part.
        """
        place = self._folder / str(int(state.step))
        # judged again on other devices, a step's gain differs in its last digits
        if not processes.first_says(gain > self.gain and place != self.place):
            return
        try:
            processes.first_does(self._ready)
            with closing(open_manager(self._folder, 1)) as manager:
                begin_save(manager, self._folder, state, progress | {"gain": gain}, self._config)
                manager.wait_until_finished()
        except OF_THE_MACHINE:
            raise
        except Exception as error:
            told = f"the best checkpoint, {place}, cannot be written {why_not_written(error)}"
            if jax.process_count() > 1:
                raise NotSaved(told) from error
            processes.say(f"{told}; training goes on, and the best before stays")
        else:
            self.gain, self.place = gain, place

    def _ready(self) -> None:
        """Raises OSError or ValueError where nothing can be written."""
        self._hold()
        self._folder.mkdir(exist_ok=True)
