"""What is measured, job by job: each runs in a process of its own, two at a time on two cores."""

from __future__ import annotations

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

import torch

from layertune.errors import in_words
from layertune.runtime import device_facts
from scripts.benchmark.arms import ARMS, Arm, Bench, LoopArm, Setting, bert_base
from scripts.benchmark.lengths import task_lengths
from scripts.benchmark.measure import (
    arms_of_round,
    combine,
    measure_end_to_end,
    measure_growth,
    measure_round,
)
from scripts.benchmark.once import RECORDS, start_seconds, tables_seconds, tokenising_rate
from scripts.benchmark.project import BASE, USER
from scripts.benchmark.step import keep_freed, measure_breakdown, measure_memory

log = logging.getLogger(__name__)

USUAL = ("tasks", "real", "memory", "growth", "once")
PARTS = (*USUAL, "profile")  # a profile is for who asks where the time goes
TASKS = ("qnli", "mrpc", "sst2", "sst2_glue")
FAST = "fast_top3"
WHOLE = (
    BASE,
    FAST,
)  # of the arms on real data those that train every epoch on a CPU; on CUDA all but the padded
REAL = (
    *(BASE, USER, "trainer_full_grouped", "trainer_full_padded", "trainer_lora", "trainer_top3"),
    *("published_full", "published_top3", FAST),
)
PROFILED = (FAST, "fast_middle3")
IN_MEMORY = (
    BASE,
    "trainer_lora",
    "trainer_top3",
    FAST,
    "fast_middle3",
    "fast_bottom3",
)  # published: as Trainer
GROWING = {"hidden_size": 192, "intermediate_size": 768, "num_attention_heads": 4}  # small: ratios only
SHAPES = {6: (3,), 12: (1, 3, 6, 11), 24: (3,)}  # L -> k
TRAININGS = [(500, 2), (1000, 2), (1500, 2), (1000, 1), (1000, 4)]  # examples and epochs


@dataclass(frozen=True)
class BenchmarkPlan:
    """What is measured."""

    outputs: Path  # scratch
    model_path: str | None = None  # folder of gte_small; without it and the next no end-to-end part
    data_dir: str | None = None  # folder of the data sets
    tasks: tuple[str, ...] = TASKS  # whose lengths are projected on
    real: tuple[str, ...] = ("trec",)  # trained end to end
    rounds: int = 2  # of all arms, each in a process of its own
    steps: int = 5  # per arm and round
    parts: tuple[str, ...] = USUAL  # of PARTS
    arms: tuple[str, ...] = ()  # none = all (real data: REAL)
    hidden_size: int = 768  # another is for trying things out
    workers: int = 2  # processes at a time
    precision: str = "fp32"  # or bf16
    device: str = "cpu"  # or cuda
    projected: bool = False  # real data too: from steps, no training is taken to its end

    def setting(self, name: str, model: tuple[str, ...] | None = None, task: str = "sst2") -> Setting:
        """Return what the arms of one job share; its scratch folder is its own. Without a model: BERT-base's
        shape.
        """
        shape = {"hidden_size": self.hidden_size, "intermediate_size": 4 * self.hidden_size}
        outputs = self.outputs / name
        return Setting(
            model or bert_base(**shape), task, outputs, precision=self.precision, device=self.device
        )

    @property
    def whole(self) -> bool:
        """Whether everything is measured as usual: the results in the repository are of such a plan."""
        own = ("outputs", "model_path", "data_dir", "workers")
        return self.has_data and self == BenchmarkPlan(**{name: getattr(self, name) for name in own})

    @property
    def has_data(self) -> bool:
        """Whether real weights and data were named."""
        return self.model_path is not None and self.data_dir is not None

    @property
    def small(self) -> tuple[str, ...]:
        """gte_small and the data sets."""
        return "model=gte_small", f"model.path={self.model_path}", f"data_dir={self.data_dir}"

    @property
    def chosen(self) -> list[Arm]:
        """The arms, the first of which the others are compared with."""
        named = self.arms or [arm.name for arm in ARMS.values() if arm.precision != self.precision]
        return [arm for arm in ARMS.values() if arm.name in named]


def _round(plan: BenchmarkPlan, name: str) -> dict[str, Any]:
    bench = Bench.start(plan.setting(name, task=plan.tasks[0]))
    tasks = [task_lengths(task) for task in plan.tasks]
    arms = arms_of_round(plan.chosen, int(name.removeprefix("round ")) - 1)
    return measure_round(bench, tasks, arms, plan.steps)


def _real(plan: BenchmarkPlan, task: str) -> dict[str, Any]:
    bench = Bench.start(plan.setting(f"real-{task}", plan.small, task))
    arms = [arm for arm in plan.chosen if arm.name in REAL]
    whole = WHOLE if plan.device == "cpu" else tuple(arm.name for arm in arms if not arm.pad_to)
    whole = () if plan.projected else whole
    return measure_end_to_end(bench, arms, bench.setting.epochs, whole, plan.rounds, plan.steps)


def _memory(plan: BenchmarkPlan, name: str) -> dict[str, Any]:
    return measure_memory(plan.setting(f"memory-{name}", task="mrpc"), ARMS[name])


def _growth(plan: BenchmarkPlan, what: str) -> dict[str, Any]:
    """Measure a small model at several depths and with several numbers of trained layers; or whole trainings
    on several numbers of examples.
    """
    lengths = task_lengths("sst2_glue")
    if what == "examples and epochs":
        bench = Bench.start(plan.setting("growth-n", bert_base(**GROWING), "sst2_glue"))
        return {what: measure_growth(bench, ARMS[FAST], lengths.lengths, TRAININGS, plan.rounds)}
    found = []
    for layers, sizes in SHAPES.items():
        shape = bert_base(**GROWING, num_hidden_layers=layers)
        bench = Bench.start(plan.setting(f"growth-{layers}", shape, "sst2_glue"))
        tops = [LoopArm(f"k{k}", "", tuple(range(layers - k + 1, layers + 1)), mode="fast") for k in sizes]
        arms = [ARMS[BASE], *tops]
        rounds = [measure_round(bench, [lengths], arms, plan.steps) for _ in range(plan.rounds)]
        lines = combine(rounds, [lengths], arms, bench.setting)[0]["arms"][1:]
        keys = ("seconds", "ratio", "spread")
        found += [
            {"layers": layers, "k": k, **{key: line[key] for key in keys}}
            for k, line in zip(sizes, lines, strict=True)
        ]
    return {what: found}


def _profile(plan: BenchmarkPlan, name: str) -> dict[str, Any]:
    return measure_breakdown(plan.setting(f"profile-{name}", task="mrpc"), ARMS[name])


def _once(plan: BenchmarkPlan, what: str) -> dict[str, Any]:
    model, task = (plan.small, "trec") if plan.has_data else (("model=tiny_bert",), "demo")
    setting = plan.setting(f"once-{what}", model, task)
    if what == "start":
        return {"what": what, "seconds": start_seconds(setting)}
    if what == "tables":
        return {"what": what, "records": RECORDS, "seconds": tables_seconds(setting)}
    return {"what": what, "sentences_per_second": tokenising_rate(setting)}


_JOBS: dict[str, Callable[[BenchmarkPlan, str], dict[str, Any]]] = {
    "tasks": _round,
    "real": _real,
    "memory": _memory,
    "growth": _growth,
    "profile": _profile,
    "once": _once,
}


def jobs_of(plan: BenchmarkPlan) -> list[tuple[str, str]]:
    """List the jobs, the longest first."""
    wanted = {
        "real": plan.real if plan.has_data else (),
        "tasks": tuple(f"round {number + 1}" for number in range(plan.rounds)),
        "memory": IN_MEMORY,
        "growth": ("k and L", "examples and epochs"),
        "profile": PROFILED if plan.device == "cpu" else (),
        "once": ("start", "tokens", "tables"),
    }
    return [(part, name) for part in wanted if part in plan.parts for name in wanted[part]]


def say_progress() -> None:
    """Print what the benchmark logs, and warnings alone of everything else."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("scripts.benchmark").setLevel(logging.INFO)


def run_job(plan: BenchmarkPlan, part: str, name: str) -> tuple[dict[str, Any], float]:
    """Run one job in this process; return what it found and the CPU seconds of the process so far."""
    say_progress()
    if plan.device == "cpu" and part != "memory":
        keep_freed()
    return _JOBS[part](plan, name), time.process_time()


def run_plan(plan: BenchmarkPlan, save: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Run all jobs and return the result file's content; a job that fails is left out and named.

    Args:
        plan: what is measured.
        save: is given the content after each job, so that a run cut short leaves what it has.
    """
    os.environ["OMP_NUM_THREADS"] = "1"  # of each worker: arms are compared on one thread
    where, start = machine(plan.setting("machine")), time.monotonic()
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
                failed.append(f"{' '.join(job)}: {in_words(error)}")
                log.warning("failed: %s", failed[-1])
            now = {"load_after": list(os.getloadavg()), "minutes": (time.monotonic() - start) / 60}
            content = {"machine": where | now, "jobs": spent, "failed": failed, **parts_of(plan, found)}
            save(content)
    return content


def _context(device: str) -> BaseContext:
    """Return how workers start: where a fork is safe, from a process that has imported everything once."""
    if device == "cpu" and sys.platform == "linux":
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__, "scripts.benchmark.trainer"])
        return context
    return multiprocessing.get_context("spawn")


def parts_of(plan: BenchmarkPlan, found: dict[tuple[str, str], Any]) -> dict[str, Any]:
    """Sort what the jobs found; tasks are projected from the rounds there are, which are kept beside."""
    parts: dict[str, Any] = {
        name: [found[job] for job in jobs_of(plan) if job[0] == name and job in found] for name in _JOBS
    }
    rounds = parts["tasks"]
    if rounds:
        tasks = [task_lengths(task) for task in plan.tasks]
        parts["tasks"] = combine(rounds, tasks, plan.chosen, plan.setting("machine"))
    parts["rounds"] = [{arm: asdict(measured) for arm, measured in one.items()} for one in rounds]
    return parts


def machine(setting: Setting) -> dict[str, Any]:
    """Say where and how it was measured."""
    return {
        "device": device_facts(torch.device(setting.device))[0],
        "cores": os.cpu_count(),
        "threads": setting.threads,
        "clock": "wall clock" if setting.device == "cuda" else "CPU time of one process",
        "load": list(os.getloadavg()),
        "torch": torch.__version__,
        "precision": setting.precision,
        "batch_size": setting.batch_size,
        "epochs": setting.epochs,
        "optimizer": "AdamW, fused, on both sides; no clipping",
        "batching": "Trainer in random order (grouped: by length), layertune in length buckets",
        "measured_at": time.strftime("%Y-%m-%d"),
    }
