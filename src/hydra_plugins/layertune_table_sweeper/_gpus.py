"""One GPU per joblib worker: as many workers as GPUs, and each worker sees a GPU of its own.

Slurm and submitit hand out devices themselves; the basic launcher runs one job at a time. The underscore of
this file's name keeps Hydra from importing it at every start, in a way that dataclasses do not survive.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from omegaconf import DictConfig, OmegaConf

VISIBLE = "CUDA_VISIBLE_DEVICES"
DEVICES = Path("/dev")  # where the driver shows a file for each GPU
_held: list[FileLock] = []  # the lock of this worker, held as long as the process lives


@contextmanager
def one_per_worker(
    config: DictConfig, task_function: Callable[[Any], Any]
) -> Iterator[tuple[DictConfig, Callable[[Any], Any]]]:
    """Give the configuration and the task function with which joblib's workers share the GPUs.

    Both are returned as they are for other launchers, and where there is no GPU.
    """
    launcher, gpus = config.hydra.launcher, visible_gpus()
    if not str(launcher.get("_target_", "")).endswith("JoblibLauncher") or not gpus:
        yield config, task_function
        return
    config = config.copy()
    if launcher.n_jobs < 0:  # joblib's default: one worker per CPU core
        OmegaConf.update(config, "hydra.launcher.n_jobs", len(gpus))
    with tempfile.TemporaryDirectory(prefix="layertune-gpus-") as folder:
        yield config, OnItsOwnGpu(task_function, gpus, config.hydra.launcher.n_jobs, folder)


def visible_gpus() -> tuple[str, ...]:
    """Return the GPUs that this process may use: CUDA_VISIBLE_DEVICES, else what nvidia-smi lists, else the
    devices of the driver.
    """
    if VISIBLE in os.environ:
        names = (name.strip() for name in os.environ[VISIBLE].split(","))
        return tuple(takewhile(lambda name: name not in ("", "-1"), names))  # CUDA reads no further either
    if shutil.which("nvidia-smi") is not None:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True)
        if listed.returncode == 0:
            return listed_gpus(listed.stdout)
    count = sum(1 for device in DEVICES.glob("nvidia[0-9]*"))
    return tuple(str(number) for number in range(count))


def listed_gpus(text: str) -> tuple[str, ...]:
    """Return the GPUs of `nvidia-smi -L`, by number; of one that is cut up (MIG) its parts, by UUID."""
    found: list[str] = []
    for number, parts in re.findall(r"^GPU (\d+):.*((?:\n\s+MIG .*)*)", text, re.MULTILINE):
        found += re.findall(r"\(UUID: (MIG-[^)]+)\)", parts) or [number]
    return tuple(found)


@dataclass(frozen=True)
class OnItsOwnGpu:
    """A task function that takes a GPU the first time a worker calls it."""

    task_function: Callable[[Any], Any]
    gpus: tuple[str, ...]
    workers: int
    folder: str  # of the locks by which workers agree

    def __call__(self, config: Any) -> Any:
        """Run the task on this worker's GPU."""
        if not _held:
            take_gpu(self.gpus, self.workers, Path(self.folder))
        return self.task_function(config)


def take_gpu(gpus: Sequence[str], workers: int, folder: Path) -> str:
    """Let this process see one GPU that no other worker has; with more workers than GPUs they share evenly.

    Must come before CUDA is used. The claim ends with the process.
    """
    slots = max(workers, 1)
    for slot in range(slots):
        if _claimed(folder / f"{slot}"):
            break
    else:  # a worker that ends has not let go yet
        slot = os.getpid() % slots
        _claimed(folder / f"{slot}", wait=True)
    os.environ[VISIBLE] = gpus[slot % len(gpus)]
    return os.environ[VISIBLE]


def _claimed(path: Path, wait: bool = False) -> bool:
    lock = FileLock(path)
    try:
        lock.acquire(blocking=wait)
    except Timeout:
        return False
    _held.append(lock)
    return True
