"""Sweeps side by side: a run that another process is training comes again at the end.

The underscore of this file's name keeps Hydra from importing it at every start, in a way that dataclasses do
not survive.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hydra.core.utils import JobReturn
    from hydra.plugins.launcher import Launcher

log = logging.getLogger(__name__)

_POLL_SECONDS = 1.0


@dataclass(frozen=True)
class InASweep:
    """A task function that returns the turn of a run (`Turn`) where another process is training it."""

    task_function: Callable[[Any], Any]
    began: Mapping[str, int]

    @classmethod
    def from_now_on(cls, task_function: Callable[[Any], Any], arguments: Iterable[str]) -> InASweep:
        """Begin a sweep with these arguments: what others try from now on is not tried again."""
        from layertune.records.store import last_written
        from layertune.report.plan import store_of

        return cls(task_function, last_written(store_of(arguments)))

    def __call__(self, config: Any) -> Any:
        """Run the task, unless its run is claimed."""
        from layertune.errors import RunClaimed
        from layertune.records.store import in_a_sweep

        with in_a_sweep(self.began):
            try:
                return self.task_function(config)
            except RunClaimed as claimed:
                return claimed.turn


class Patient:
    """A launcher that goes back to claimed runs once all others are through, and until none is left."""

    def __init__(self, launcher: Launcher) -> None:
        self.launcher = launcher

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Launch jobs as the launcher does; of a run that is free again, what became of it is the result."""
        from layertune.records.store import Turn

        results = list(self.launcher.launch(job_overrides, initial_job_idx=initial_job_idx))
        is_waiting = False
        while turns := {
            number: result._return_value
            for number, result in enumerate(results)
            if isinstance(result._return_value, Turn)
        }:
            free = [number for number, turn in turns.items() if turn.is_free()]
            if not free:
                if not is_waiting:
                    log.info("waiting for other processes, which are training %d of these runs", len(turns))
                is_waiting = True
                time.sleep(_POLL_SECONDS)
                continue
            again = self.launcher.launch([job_overrides[number] for number in free], initial_job_idx=free[0])
            for number, result in zip(free, again, strict=True):
                results[number] = result
        return results
