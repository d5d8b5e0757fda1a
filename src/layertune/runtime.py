"""Where and how a run computes: device, precision, determinism, seeds; meters of time and memory."""

from __future__ import annotations

import gc
import logging
import os
import platform
import random
import resource
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from layertune.config import RunConfig
from layertune.config.rates import bf16_on
from layertune.errors import ConfigError, with_causes
from layertune.records.record import EnvRecord

if TYPE_CHECKING:
    from layertune.models import TaskModel
    from layertune.tasks import Batch

log = logging.getLogger(__name__)

_TF32 = "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE"  # a variable of torch that flips its default


@dataclass(frozen=True)
class Runtime:
    """Where and how precisely one run computes."""

    device: torch.device
    precision: str  # fp32 | bf16
    env: EnvRecord

    @property
    def multiple(self) -> int:
        """The multiple of tokens that training batches are padded to.

        Choice: [padding] to a multiple of 8 on a GPU: few shapes to capture, and what tensor cores like; a
        CPU gains nothing.
        """
        return 8 if self.device.type == "cuda" else 1

    def autocast(self) -> AbstractContextManager[None]:
        """Enclose a forward pass: what may be computed in half precision is, under bf16."""
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)

    def gradient(self, model: TaskModel, batch: Batch, share: float) -> Tensor:
        """Run forward and backward on a batch on the device; return its share of the loss, still there."""
        with self.autocast():
            part = model(batch).loss * share
        part.backward()
        return part.detach()


def prepare_runtime(run: RunConfig) -> Runtime:
    """Choose device, threads, precision and determinism, seed everything; log each choice with its reason.

    Raises:
        ConfigError: CUDA was asked for and is not there, or more than one process was started.
    """
    set_determinism(run.train.deterministic)  # before CUDA starts
    device, reason = choose_device(run.train.device)
    torch.set_num_threads(run.train.num_threads or _default_threads())
    seed_everything(run.seed)

    precision, precision_reason = _precision_on(device, run.train.precision or "fp32")
    if (num_processes := os.environ.get("WORLD_SIZE", "1")) != "1":
        raise ConfigError(
            f"{num_processes} processes were started; a run takes one. "
            "Run several at once with a Hydra launcher: hydra/launcher=joblib."
        )
    name, memory = device_facts(device)
    log.info(
        "device: %s (%s), %s (%s), %d threads",
        name,
        reason,
        precision,
        run.origin.get("precision", "chosen"),
        torch.get_num_threads(),
    )
    env = EnvRecord(
        python=platform.python_version(),
        torch=torch.__version__,
        transformers=version("transformers"),
        datasets=_version("datasets"),
        peft=_version("peft"),
        device_name=name,
        device_memory_bytes=memory,
        precision=precision,
        determinism="deterministic" if run.train.deterministic else "seeded",
        num_processes=1,
        num_threads=torch.get_num_threads(),
        tf32=_without_tf32() if device.type == "cuda" else None,
        precision_reason=precision_reason,
    )
    return Runtime(device, precision, env)


@contextmanager
def freeing_memory() -> Iterator[None]:
    """Let an error go on up without what it holds: the frames of its traceback keep the model alive.

    A sweep keeps the errors of its jobs to the end, and the next job needs the memory.
    """
    try:
        yield
    except BaseException as error:
        for each in with_causes(error):
            traceback.clear_frames(each.__traceback__)
        gc.collect()
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
        raise


@cache
def _default_threads() -> int:
    """Return torch's threads before any run changed them: one run's choice is not the next one's."""
    return torch.get_num_threads()


def choose_device(asked: str) -> tuple[torch.device, str]:
    """Return the device that `cpu`, `cuda` or `auto` stands for here, and why; any other is torch's own name.

    Raises:
        ConfigError: there is no such device.
    """
    if asked not in ("auto", "cuda"):
        return torch.device(asked), "asked for"
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device()), "a CUDA device is there"
    if asked == "cuda":
        raise ConfigError("train.device=cuda, but torch finds no CUDA device; say train.device=cpu or auto.")
    return torch.device("cpu"), why_cpu()


def why_cpu() -> str:
    """Say why the CPU computes where no device was asked for and there is no CUDA device."""
    if torch.backends.mps.is_available():
        return "no CUDA device; Apple's MPS has no float64, in which scores and losses are summed"
    return "no CUDA device"


def _precision_on(device: torch.device, asked: str) -> tuple[str, str | None]:
    """Return the precision that a device computes in, and why it is not the one asked for: a CUDA device may
    have no bf16.
    """
    if asked == "fp32" or device.type != "cuda" or bf16_on("cuda")[0]:
        return asked, None
    reason = f"{torch.cuda.get_device_name(device)} has no bf16"
    log.warning("train.precision=%s: %s; it computes in fp32, and the record says so", asked, reason)
    return "fp32", reason


def _without_tf32() -> bool:
    """Let fp32 be fp32 on a CUDA device, whatever torch's defaults are; return whether it is not."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    forced = torch.backends.cuda.matmul.allow_tf32 or os.environ.get(_TF32) == "1"
    if forced:
        log.warning("%s=1: matrices are multiplied in TF32; the record says so", _TF32)
    return forced


def device_facts(device: torch.device) -> tuple[str, int | None]:
    """Return a device's name and its bytes of memory (None for a CPU)."""
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return properties.name, properties.total_memory
    for line in _lines("/proc/cpuinfo"):
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip(), None
    return platform.processor() or platform.machine(), None


def _lines(path: str) -> list[str]:
    file = Path(path)
    return file.read_text().splitlines() if file.is_file() else []


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def set_determinism(deterministic: bool) -> None:
    """Ask torch for deterministic algorithms, or stop asking; a sweep may mix both in one process."""
    if deterministic and "CUBLAS_WORKSPACE_CONFIG" not in os.environ:
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
        if torch.cuda.is_initialized():
            log.warning(
                "CUDA has been used before: cuBLAS may not see CUBLAS_WORKSPACE_CONFIG and repeat no bits; "
                "start deterministic runs in a process of their own, or set it in the shell."
            )
    torch.use_deterministic_algorithms(deterministic)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = deterministic


def seed_everything(seed: int) -> None:
    """Seed python, numpy and torch (all devices)."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def synchronize(device: torch.device) -> None:
    """Wait until a CUDA device has done all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Stopwatch:
    """Time and work of training steps: seconds, CPU seconds, both per step, examples, real tokens.

    Runs between `start` and `stop`, as often as needed; evaluation and checkpoints lie outside. A CUDA device
    is waited for at both ends and never between steps.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.reset()

    def reset(self) -> None:
        """Forget everything so far (the end of a warm-up)."""
        self.seconds = self.cpu_seconds = 0.0
        self.examples = self.tokens = 0
        self.steps: list[float] = []
        self.cpu_steps: list[float] = []  # CPU seconds
        self._marks: list[float | torch.cuda.Event] = []
        self._cpu_marks: list[float] = []

    @property
    def running(self) -> bool:
        """Whether it was started and not stopped since."""
        return bool(self._marks)

    def start(self) -> None:
        """Start, or start again."""
        synchronize(self.device)
        self._start = time.perf_counter(), time.process_time()
        self._marks, self._cpu_marks = [self._now()], [time.process_time()]

    def step(self, examples: int, tokens: int) -> None:
        """Count a finished step."""
        self.examples += examples
        self.tokens += tokens
        self._marks.append(self._now())
        self._cpu_marks.append(time.process_time())

    def stop(self) -> None:
        """Stop; the seconds since `start` and those of each step are added up."""
        synchronize(self.device)
        self.seconds += time.perf_counter() - self._start[0]
        self.cpu_seconds += time.process_time() - self._start[1]
        for before, after in pairwise(self._marks):
            cuda = not isinstance(before, float)
            self.steps.append(before.elapsed_time(after) / 1000.0 if cuda else after - before)
        self.cpu_steps += [after - before for before, after in pairwise(self._cpu_marks)]
        self._marks, self._cpu_marks = [], []

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Run while the block does."""
        self.start()
        try:
            yield
        finally:
            self.stop()

    def _now(self) -> float | torch.cuda.Event:
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        names = ("seconds", "cpu_seconds", "examples", "tokens", "steps", "cpu_steps")
        return {name: getattr(self, name) for name in names}

    def load(self, state: dict[str, Any]) -> None:
        """Take up the state of a checkpoint."""
        for name, value in state.items():
            setattr(self, name, value)


class PeakMemory:
    """Peak memory from its making on: allocated on a CUDA device, resident of the process on a CPU.

    On a CPU the kernel's high-water mark is reset first; where that is not possible the peak is that of the
    whole process so far. A resumed run's peak is the highest of all its parts.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._before = 0  # of the parts that ended
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        else:
            try:
                Path("/proc/self/clear_refs").write_text("5")
            except OSError as error:
                log.debug("peak memory covers the whole process: %s", error)

    def read(self) -> int:
        """Return the peak in bytes."""
        return max(self._before, self._now())

    def state(self) -> int:
        """Return what a checkpoint keeps."""
        return self.read()

    def load(self, state: int) -> None:
        """Take up the state of a checkpoint."""
        self._before = state

    def _now(self) -> int:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        for line in _lines("/proc/self/status"):
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
