"""kill -9 at any moment: the same command, issued again until it is done, leaves the record of a run that was
never killed, and nothing else.

A moment is a number of calls since the run began, so that a case can be made again; of three cases one is
killed when training has ended and the record, or the model to keep, is not written, and one before the model
is built.
"""

from __future__ import annotations

import json
import os
import runpy
import shutil
import signal
import sys
import tempfile
import threading
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from processes import import_what_runs_need, in_a_process
from test_generation_run import write as write_e2e
from tiny_runs import DEFAULTS, lasting
from tqdm import tqdm

import layertune
from layertune import pipeline
from layertune.errors import JavaError
from layertune.evaluation.nlg import scorer

from . import seeded_cases

REPO = Path(__file__).resolve().parents[2]
NAMES = (
    "config",
    "records",
    "tasks",
    "models",
    "scoring",
    "methods",
    "fast",
    "training",
    "evaluation",
    "saved",
)
ROOMS = tuple(f"{Path(layertune.__file__).parent / room}/" for room in NAMES)
COMMON = ("train.epochs=2", "train.num_threads=1", "checkpoint.every_steps=2")
E2E = ("model=tiny_gpt2", "task=e2e", "method=low_k", "method.k=2", "protocol=paper", "train.batch_size=4")
DECODING = ("task.decoding.num_beams=2", "task.decoding.max_new_tokens=4")
REQUESTS: dict[str, tuple[str, ...]] = {
    "lift": ("method=lift",),
    "fast": ("method=top_k", "method.k=1", "train=fast"),
    "recap": ("method=recap", "method.rounds=1"),
    "e2e": (*E2E, *DECODING, "data_dir={data}"),
    "slimfit": ("method=slimfit", "method.quantise=true"),
    "lora": ("method=lora",),
    "save": ("method=top_k", "method.k=2", "save={folder}/kept", "save_epoch=best"),
    "lisa": ("method=lisa", "method.layers=2", "method.every=3"),
}
# The function that is called when training has ended and the record, or the model, is not written.
TRAINED = {name: "keep_model" if name == "save" else "conclude" for name in REQUESTS}


def run(cases: int, seed: int) -> list[str]:
    """Kill one request per case, once or more often, and compare its record with that of an unharmed one."""
    import_what_runs_need()
    failures = []
    whole: dict[str, tuple[Any, int, int]] = {}
    root = Path(tempfile.mkdtemp(prefix="layertune-kill-"))
    try:
        write_e2e(root / "data")
        for case, rng in seeded_cases(cases, seed):
            name = list(REQUESTS)[case % len(REQUESTS)]
            if name not in whole:
                whole[name] = _unharmed(name, root)
            record, built, calls = whole[name]
            moments: list[int | str] = [rng.randrange(built, calls) for _ in range(rng.randint(1, 3))]
            if case % 3 == 1:
                moments = [*moments[1:], TRAINED[name]]
            if case % 3 == 2:
                moments = [rng.randrange(1, built), *moments[1:]]
            if wrong := _killed(name, root, moments, record):
                failures.append(f"case {case} ({name}, killed at {moments} of {calls:,} calls): {wrong}")
    finally:
        shutil.rmtree(root)
    return failures


def _unharmed(name: str, root: Path) -> tuple[Any, int, int]:
    """Return the record of a run that nothing happens to, and its calls: up to its model, and all of them."""
    folder = root / f"{name}-whole"
    code, said = _run_py(name, folder, root / "data", None)
    if code != 0:
        raise RuntimeError(f"{name} ends with {code} by itself: {said[-1]}")
    built, calls = map(int, (folder / "calls").read_text().split())
    return _record(folder), built, calls


def _killed(name: str, root: Path, moments: list[Any], record: Any) -> str | None:
    """Kill a request at these moments, then let it end; return what is wrong with what is left."""
    folder = Path(tempfile.mkdtemp(prefix=name, dir=root))
    trained = False
    for moment in [*moments, None]:
        code, said = _run_py(name, folder, root / "data", moment)
        if trained and any("epoch " in line and ": loss " in line for line in said):
            return "it trains again, and had come to the end"
        if code not in (0, -signal.SIGKILL) or (moment is None and code != 0):
            return f"ends with {code}: {said[-1]}"
        trained = trained or moment == TRAINED[name]
    if (found := _record(folder)) != record:
        return f"other values: {', '.join(_differences(found, record))}"
    left = [path.name for path in (*folder.glob("outputs/checkpoints/*"), *folder.rglob(".*"))]
    return f"left behind: {', '.join(left)}" if left else None


def _record(folder: Path) -> Any:
    """Return the only record below a folder, without what may differ from run to run, and the model kept."""
    (path,) = [*folder.glob("results/runs/*.json"), *folder.glob("outputs/records/*.json")]
    kept = {file.name: file.read_bytes() for file in folder.glob("kept/*") if file.name != "README.md"}
    return {**lasting(json.loads(path.read_text())), "kept": kept}


def _differences(found: Any, wanted: Any, place: str = "") -> list[str]:
    """Name the places where two records differ."""
    if found == wanted:
        return []
    if isinstance(found, dict) and isinstance(wanted, dict) and found.keys() == wanted.keys():
        return [name for key in found for name in _differences(found[key], wanted[key], f"{place}.{key}")]
    return [place or "the whole"]


def _run_py(name: str, folder: Path, data: Path, moment: int | str | None) -> tuple[int, list[str]]:
    """Run a request in a process of its own; return its exit code and what it said."""
    given = [item.format(data=data, folder=folder) for item in REQUESTS[name]]
    chosen = [item for item in DEFAULTS if item.split("=")[0] not in {word.split("=")[0] for word in given}]
    folders = [f"{key}_dir={folder / key}" for key in ("outputs", "results")]
    folder.mkdir(exist_ok=True)
    done = in_a_process(partial(_child, [*given, *chosen, *COMMON, *folders], folder, moment), folder)
    return done.returncode, (done.stdout + done.stderr).splitlines() or [""]


def no_java(path: str | None = None) -> None:
    """METEOR takes seconds to start, and has no part in this."""
    raise JavaError("no Java here")


def _child(arguments: list[str], folder: Path, moment: int | str | None) -> None:
    """`python run.py <arguments>`, killed at a moment."""
    sys.argv = ["run.py", *arguments]
    calls = calls_to_model = 0

    def count(frame: FrameType, event: str, _: object) -> None:
        nonlocal calls
        if event.endswith("call") and frame.f_code.co_filename.startswith(ROOMS):
            calls += 1
            if moment in (calls, frame.f_code.co_name):
                os.kill(os.getpid(), signal.SIGKILL)

    def begun(*given: Any) -> Any:
        sys.setprofile(count)
        return execute(*given)

    def built(*given: Any) -> Any:
        nonlocal calls_to_model
        model, calls_to_model = build_model(*given), calls
        return model

    build_model, pipeline.build_model = pipeline.build_model, built
    execute, pipeline.execute = pipeline.execute, begun
    scorer.find_java = no_java
    tqdm.set_lock(threading.RLock())  # its own would outlive a killed process
    try:
        runpy.run_path(str(REPO / "run.py"), run_name="__main__")
    finally:
        sys.setprofile(None)
        (folder / "calls").write_text(f"{calls_to_model} {calls}")
