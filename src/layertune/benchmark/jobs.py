"""The jobs of `make bench`: each runs in a process of its own, two at a time on two cores."""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

from layertune.benchmark.arms import Bench, LoopArm, Setting, bert_base, loop_arms
from layertune.benchmark.breakdown import measure_breakdown
from layertune.benchmark.end_to_end import measure_end_to_end, measure_growth
from layertune.benchmark.heap import keep_freed
from layertune.benchmark.lengths import task_lengths
from layertune.benchmark.measure import Arm, arms_of_round, combine, machine, measure_round
from layertune.benchmark.memory import measure_memory
from layertune.benchmark.once import RECORDS, start_seconds, tables_seconds, tokenising_rate
from layertune.benchmark.trainer_arms import trainer_arms

log = logging.getLogger(__name__)

PARTS = ("tasks", "real", "memory", "growth", "once", "profile")
USUAL = PARTS[:-1]  # a profile is for who asks where the time goes
TASKS = ("qnli", "mrpc", "sst2", "sst2_glue")
REAL = ("a", "b", "c", "d", "e10", "f", "g10", "h10")  # arms on real data
WHOLE = ("a", "h10")  # of them those that train every epoch on a CPU; on a CUDA device all but (c)
PROFILED = ("h10", "h5")
IN_MEMORY = ("a", "d", "e10", "h10", "h5", "h1")  # (g) holds what (e) does
GROWING = {"hidden_size": 192, "intermediate_size": 768, "num_attention_heads": 4}  # small: ratios only
SHAPES = {6: (3,), 12: (1, 3, 6, 11), 24: (3,)}  # L -> k
TRAININGS = [(500, 2), (1000, 2), (1500, 2), (1000, 1), (1000, 4)]  # examples and epochs


@dataclass(frozen=True)
class Plan:
    """What is measured.

    Attributes:
        outputs: scratch folder.
        model_path: folder of gte_small; None leaves the end-to-end part out.
        data_dir: folder of the data sets, for the same.
        tasks: whose lengths are measured.
        real: tasks that are trained end to end.
        rounds: of all arms, each in a process of its own.
        steps: optimiser steps per arm and round.
        parts: tasks, real, memory, growth, once, profile.
        arms: names of the arms, the first of which is compared with; none = all (real data: `REAL`).
        hidden_size: of the model; another than 768 is for trying things out.
        workers: processes at a time.
        precision: fp32 or bf16.
        device: cpu or cuda.
    """

    outputs: Path
    model_path: str | None = None
    data_dir: str | None = None
    tasks: tuple[str, ...] = TASKS
    real: tuple[str, ...] = ("trec",)
    rounds: int = 2
    steps: int = 5
    parts: tuple[str, ...] = USUAL
    arms: tuple[str, ...] = ()
    hidden_size: int = 768
    workers: int = 2
    precision: str = "fp32"
    device: str = "cpu"

    def setting(self, name: str, model: tuple[str, ...], task: str) -> Setting:
        """Return what the arms of one job share; its scratch folder is its own."""
        return Setting(model, task, self.outputs / name, precision=self.precision, device=self.device)

    @property
    def base(self) -> tuple[str, ...]:
        """BERT-base's shape."""
        return bert_base(hidden_size=self.hidden_size, intermediate_size=4 * self.hidden_size)

    @property
    def whole(self) -> bool:
        """Whether everything is measured as usual: the results in the repository are of such a plan."""
        own = ("outputs", "model_path", "data_dir", "workers")
        return self.has_data and self == Plan(**{name: getattr(self, name) for name in own})

    @property
    def has_data(self) -> bool:
        """Whether real weights and data were named."""
        return self.model_path is not None and self.data_dir is not None

    @property
    def small(self) -> tuple[str, ...]:
        """gte_small and the data sets."""
        return ("model=gte_small", f"model.path={self.model_path}", f"data_dir={self.data_dir}")


def folder(name: str) -> str:
    """Return the name of a folder that is there, as an argument of a script.

    Raises:
        argparse.ArgumentTypeError: it is not.
    """
    if not Path(name).is_dir():
        raise argparse.ArgumentTypeError(f"{name} is not a folder")
    return name


def all_arms(names: tuple[str, ...] = ()) -> list[Arm]:
    """Return (a) to (h), or those of them that are named."""
    arms: list[Arm] = [*trainer_arms(), *loop_arms()]
    return [arm for arm in arms if not names or arm.name in names]


def arm_named(name: str) -> Any:
    """Return the arm of this name.

    Raises:
        KeyError: there is none.
    """
    return {arm.name: arm for arm in all_arms()}[name]


def _round(plan: Plan, name: str) -> dict[str, Any]:
    bench = Bench.start(plan.setting(name, plan.base, plan.tasks[0]))
    tasks = [task_lengths(task) for task in plan.tasks]
    arms = arms_of_round(all_arms(plan.arms), int(name.removeprefix("round ")) - 1)
    return measure_round(bench, tasks, arms, plan.steps)


def _real(plan: Plan, task: str) -> dict[str, Any]:
    bench = Bench.start(plan.setting(f"real-{task}", plan.small, task))
    arms = [arm for arm in all_arms(plan.arms) if arm.name in REAL]
    whole = WHOLE if plan.device == "cpu" else tuple(arm.name for arm in arms if not arm.pad_to)
    return measure_end_to_end(bench, arms, bench.setting.epochs, whole, plan.rounds, plan.steps)


def _memory(plan: Plan, name: str) -> dict[str, Any]:
    return measure_memory(plan.setting(f"memory-{name}", plan.base, "mrpc"), arm_named(name))


def _growth(plan: Plan, what: str) -> dict[str, Any]:
    """Measure a small model at several depths and with several numbers of trained layers; or whole trainings
    on several numbers of examples.
    """
    lengths = task_lengths("sst2_glue")
    if what == "examples and epochs":
        bench = Bench.start(plan.setting("growth-n", bert_base(**GROWING), "sst2_glue"))
        return {what: measure_growth(bench, arm_named("h10"), lengths.lengths, TRAININGS, plan.rounds)}
    found = []
    for layers, sizes in SHAPES.items():
        shape = bert_base(**GROWING, num_hidden_layers=layers)
        bench = Bench.start(plan.setting(f"growth-{layers}", shape, "sst2_glue"))
        tops = [
            LoopArm(f"k{k}", "", ("method=top_k", f"method.k={k}", "train=fast"), layers - k + 1, scored=True)
            for k in sizes
        ]
        arms: list[Arm] = [trainer_arms()[0], *tops]
        rounds = [measure_round(bench, [lengths], arms, plan.steps) for _ in range(plan.rounds)]
        lines = combine(rounds, [lengths], arms, bench.setting)[0]["arms"][1:]
        keys = ("seconds", "ratio", "spread")
        found += [
            {"layers": layers, "k": k, **{key: line[key] for key in keys}}
            for k, line in zip(sizes, lines, strict=True)
        ]
    return {what: found}


def _profile(plan: Plan, name: str) -> dict[str, Any]:
    return measure_breakdown(plan.setting(f"profile-{name}", plan.base, "mrpc"), arm_named(name))


def _once(plan: Plan, what: str) -> dict[str, Any]:
    model, task = (plan.small, "trec") if plan.has_data else (("model=tiny_bert",), "demo")
    setting = plan.setting(f"once-{what}", model, task)
    if what == "start":
        return {"what": what, "seconds": start_seconds(setting)}
    if what == "tables":
        return {"what": what, "records": RECORDS, "seconds": tables_seconds(setting)}
    return {"what": what, "sentences_per_second": tokenising_rate(setting)}


_JOBS: dict[str, Callable[[Plan, str], dict[str, Any]]] = {
    "tasks": _round,
    "real": _real,
    "memory": _memory,
    "growth": _growth,
    "profile": _profile,
    "once": _once,
}


def jobs_of(plan: Plan) -> list[tuple[str, str]]:
    """List the jobs, the longest first."""
    wanted = {
        "real": plan.real,
        "tasks": tuple(f"round {number + 1}" for number in range(plan.rounds)),
        "memory": IN_MEMORY,
        "growth": ("k and L", "examples and epochs"),
        "profile": PROFILED if plan.device == "cpu" else (),
        "once": ("start", "tokens", "tables"),
    }
    if not plan.has_data:
        wanted["real"] = ()
    return [(part, name) for part in wanted if part in plan.parts for name in wanted[part]]


def say_progress() -> None:
    """Print what the benchmark logs, and warnings alone of everything else."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("layertune.benchmark").setLevel(logging.INFO)


def run_job(plan: Plan, part: str, name: str) -> tuple[dict[str, Any], float]:
    """Run one job in this process; return what it found and the CPU seconds of the process so far."""
    say_progress()
    if plan.device == "cpu" and part != "memory":
        keep_freed()
    return _JOBS[part](plan, name), time.process_time()


def run_plan(plan: Plan, save: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Run all jobs and return the result file's content; a job that fails is left out and named.

    Args:
        plan: what is measured.
        save: is given the content after each job, so that a run cut short leaves what it has.
    """
    os.environ["OMP_NUM_THREADS"] = "1"  # of each worker: arms are compared on one thread
    setting = plan.setting("machine", plan.base, "sst2")
    where, start = machine(setting), time.monotonic()
    where |= {"workers": plan.workers, "hidden_size": plan.hidden_size}
    found: dict[tuple[str, str], Any] = {}
    spent: dict[str, float] = {}
    failed: list[str] = []
    content: dict[str, Any] = {}
    with ProcessPoolExecutor(plan.workers, _context(plan.device), max_tasks_per_child=1) as pool:
        started = {pool.submit(run_job, plan, *job): job for job in jobs_of(plan)}
        for future in as_completed(started):
            job = started[future]
            try:
                found[job], spent[" ".join(job)] = future.result()
            except Exception as error:  # the other jobs' numbers are worth keeping
                failed.append(f"{' '.join(job)}: {type(error).__name__}: {error}")
                log.warning("failed: %s", failed[-1])
            content = {
                "machine": where
                | {"load_after": list(os.getloadavg()), "minutes": (time.monotonic() - start) / 60},
                "jobs": spent,
                "failed": failed,
                **_parts(plan, found, setting),
            }
            save(content)
    return content


def _context(device: str) -> BaseContext:
    """Return how workers start: where a fork is safe, from a process that has imported everything once."""
    if device == "cpu" and sys.platform == "linux":
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])
        return context
    return multiprocessing.get_context("spawn")


def _parts(plan: Plan, found: dict[tuple[str, str], Any], setting: Setting) -> dict[str, Any]:
    """Sort what the jobs found; tasks are projected from the rounds there are, which are kept beside."""
    parts: dict[str, Any] = {
        name: [found[job] for job in jobs_of(plan) if job[0] == name and job in found] for name in _JOBS
    }
    rounds = parts["tasks"]
    if rounds:
        tasks = [task_lengths(task) for task in plan.tasks]
        parts["tasks"] = combine(rounds, tasks, all_arms(plan.arms), setting)
    parts["rounds"] = [{arm: asdict(measured) for arm, measured in one.items()} for one in rounds]
    return parts
