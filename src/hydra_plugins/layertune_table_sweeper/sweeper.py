"""Hydra sweepers that run what tables, or landscapes, miss, through whichever launcher is configured.

Processes that sweep the same runs at once share them, here and in Hydra's own sweeper.

python run.py -m hydra/sweeper=table table=table1 model=gte_small model.path=<folder> train.epochs=3
python run.py -m hydra/sweeper=table table=table1,table2 task=trec,cr seed=0 hydra/launcher=joblib
python run.py -m hydra/sweeper=landscape model=gte_small task=trec k=3 seed=0,42

Words are explained in `layertune.report.request.read_words` and `layertune.landscape.sweep.lacking`. Hydra
imports this file whenever it starts: nothing heavy at the top.
"""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.plugins.sweeper import Sweeper

if TYPE_CHECKING:
    from hydra.core.utils import JobReturn
    from hydra.types import HydraContext, TaskFunction
    from omegaconf import DictConfig

    from layertune.config import RunConfig

log = logging.getLogger(__name__)


class _PlannedSweeper(Sweeper):
    """Run what is missing of something that knows its runs."""

    @abstractmethod
    def planned(self, arguments: list[str]) -> tuple[Sequence[RunConfig], Sequence[str]]:
        """Return the runs in the order in which they start, and lines to say before.

        Raises:
            ConfigError: the request is wrong.
        """

    def task(self) -> Callable[[Any], Any]:
        """Return what is called for each run."""
        return self.task_function

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take what a launcher needs; it is made when it is known that there is something to run."""
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def sweep(self, arguments: list[str]) -> list[JobReturn]:
        """Run what is missing and say how it went.

        Raises:
            HydraException: the request is wrong; nothing was run.
            RunFailed: some runs did not finish; the others did.
        """
        from hydra.core.utils import configure_log
        from hydra.errors import HydraException

        from layertune.config.groups import looking_into
        from layertune.errors import ConfigError

        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        sources = self.config.hydra.runtime.config_sources
        own = [one.path for one in sources if one.schema == "file" and one.provider != "main"]
        with ExitStack() as stack:
            try:
                stack.enter_context(looking_into(own))
                runs, lines = self.planned(arguments)
            except ConfigError as error:
                raise HydraException(str(error)) from error
            for line in [*lines, *([] if runs else ["nothing to run"])]:
                log.info("%s", line)
            if not runs:
                return []
            results, trouble = self._launch([list(run.overrides) for run in runs], arguments)
            _conclude(runs, results, trouble)
            return results

    def _launch(self, jobs: list[list[str]], arguments: list[str]) -> tuple[list[JobReturn], str | None]:
        """Launch all jobs; return their results, and what ended the launcher where it broke down."""
        from hydra.core.plugins import Plugins

        from hydra_plugins.layertune_table_sweeper._claims import InASweep, Patient
        from hydra_plugins.layertune_table_sweeper._gpus import one_per_worker
        from layertune.errors import in_words

        job = InASweep.from_now_on(self.task(), arguments)
        with ExitStack() as stack:
            config, task_function = stack.enter_context(one_per_worker(self.config, job))
            launcher = Plugins.instance().instantiate_launcher(
                hydra_context=self.hydra_context, task_function=task_function, config=config
            )
            try:
                return list(Patient(launcher).launch(jobs, initial_job_idx=0)), None
            except Exception as error:  # a worker was killed, a job was lost: records say what was finished
                log.error("the launcher gave up: %s", in_words(error))
                return [], f"the launcher gave up: {type(error).__name__}"


class TableSweeper(_PlannedSweeper):
    """Run the runs of tables that no finished record answers, longest first.

    Args:
        lm: stands where tables name `gpt2`; None = `model`, where only tables of language models are swept.
    """

    def __init__(self, lm: str | None = None) -> None:
        """Keep the choice; `setup` brings the rest."""
        self.lm = lm

    def planned(self, arguments: list[str]) -> tuple[Sequence[RunConfig], Sequence[str]]:
        """Return what is missing of the tables that are named, and what it takes."""
        from layertune.errors import ConfigError
        from layertune.report.plan import make_plan, read_index, totals
        from layertune.report.request import read_words

        names = [word.removeprefix("table=").split(",") for word in arguments if word.startswith("table=")]
        if not names:
            raise ConfigError("No table given: say table=<name>, for example table=table1.")
        contents = {name: self._table(name) for name in names[-1]}
        plan = make_plan(read_words(arguments, contents, self.lm), read_index(arguments))
        return [one.run for one in plan.runs], [*totals(plan), *plan.refused]

    def _table(self, name: str) -> dict[str, Any]:
        """Return the file of a table from wherever Hydra finds it (`--config-dir`, `hydra.searchpath`)."""
        from hydra.types import RunMode
        from omegaconf import OmegaConf

        composed = self.hydra_context.config_loader.load_configuration(
            config_name=self.config.hydra.job.config_name,
            overrides=[*self.config.hydra.overrides.hydra, f"table={name}"],
            run_mode=RunMode.MULTIRUN,
        )
        return {str(key): value for key, value in OmegaConf.to_container(composed.table).items()}


class LandscapeSweeper(_PlannedSweeper):
    """Train every set of k layers that a landscape lacks, and keep what each reached as a row of it."""

    def planned(self, arguments: list[str]) -> tuple[Sequence[RunConfig], Sequence[str]]:
        """Return the sets that are missing, lowest layer first, and how many are there."""
        from layertune.landscape.sweep import lacking

        return lacking(arguments)

    def task(self) -> Callable[[Any], Any]:
        """Return the task, followed by its row."""
        from layertune.landscape.sweep import KeepingRows

        return KeepingRows(self.task_function)


class SideBySideSweeper(BasicSweeper):
    """Hydra's own sweeper, for several processes on one sweep: they share its runs."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take what a launcher needs."""
        self.given = {"hydra_context": hydra_context, "task_function": task_function, "config": config}

    def sweep(self, arguments: list[str]) -> Any:
        """Make the launcher and sweep, as Hydra's own does."""
        from hydra_plugins.layertune_table_sweeper._claims import InASweep, Patient

        job = InASweep.from_now_on(self.given["task_function"], arguments)
        super().setup(**self.given | {"task_function": job})
        self.launcher = Patient(self.launcher)
        return super().sweep(arguments)


def _conclude(runs: Sequence[RunConfig], results: Sequence[JobReturn], trouble: str | None) -> None:
    """Say which runs did not finish and why: as their records tell, else as their jobs do."""
    from layertune.errors import RunFailed
    from layertune.report.plan import read_index

    index = read_index(runs[0].overrides)
    errors = [_error(result) for result in results] or [trouble] * len(runs)
    failed = []
    for run, error in zip(runs, errors, strict=True):
        found = index.find(run)
        if found.state != "done" or error is not None:
            reason = "; ".join(found.notes) or error or "it left no record"
            failed.append(f"{' '.join(run.overrides)}: {reason}")
    log.info("%d of %d runs are done", len(runs) - len(failed), len(runs))
    for line in failed:
        log.error("not done: %s", line)
    if failed:
        raise RunFailed(
            f"{len(failed)} of {len(runs)} runs did not finish; the same command tries them again"
        )


def _error(result: JobReturn) -> str | None:
    from hydra.core.utils import JobStatus

    # `result.return_value` would print every failed job once more
    return str(result._return_value) if result.status is JobStatus.FAILED else None


ConfigStore.instance().store(
    group="hydra/sweeper",
    name="table",
    node={"_target_": f"{__name__}.TableSweeper", "lm": None},
    provider="layertune",
)
ConfigStore.instance().store(
    group="hydra/sweeper",
    name="landscape",
    node={"_target_": f"{__name__}.LandscapeSweeper"},
    provider="layertune",
)
ConfigStore.instance().store(  # in place of Hydra's own, for every sweep that names no other
    group="hydra/sweeper",
    name="basic",
    node={"_target_": f"{__name__}.SideBySideSweeper", "max_batch_size": None, "params": None},
    provider="layertune",
)
