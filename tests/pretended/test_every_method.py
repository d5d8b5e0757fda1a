"""Every method in both modes on an encoder and a decoder, from request to record, on a pretended device.

Nothing mixes devices, all checks of the record hold, and the host waits for the device no more often than a
step must. A step that waits is bound by the time to launch its kernels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import cycle, product

import pytest
from tiny_runs import compose_tiny, methods_by_kind, options_of, whole_but

from layertune.evaluation import evaluate
from layertune.fast.stepper import is_steady
from layertune.methods import build_method
from layertune.pipeline import execute
from layertune.records import Store
from layertune.training import loop

pytestmark = pytest.mark.pretended

MODELS = ["tiny_bert", "tiny_gpt2"]
MODES = ["published", "fast"]


def _cases() -> Iterator[tuple[bool, tuple[str, str, str]]]:
    """Yield cases, one of each kind of method as cover: a fast encoder and a published decoder by turns."""
    turns = cycle([("fast", "tiny_bert"), ("published", "tiny_gpt2")])
    for method, first in methods_by_kind():
        turn = next(turns) if first else None
        for way in product(MODES, MODELS):
            yield way == turn, (method, *way)


QUIET = (5, 6, 7)  # steps in which the witness looks at nothing: it does at the 1st, 2nd, 4th, 8th change

IN_PHASES = ("lift", "recap")  # what they train changes from phase to phase: no step is captured
# What a method reads back in a step because its next decision depends on it; all others read nothing.
READS = {"slimfit": 1}  # the ranking by the last updates says which tensors require a gradient


@pytest.mark.parametrize(("method", "mode", "model"), whole_but(_cases()))
def test_it_runs_and_waits_for_nothing(tmp_path, pretended, monkeypatch, method, mode, model):
    run = compose_tiny(
        tmp_path,
        *options_of(method, model),
        f"train={mode}",
        "train.device=cuda",
        "train.batch_size=16",  # of 64 rows
        "train.epochs=2",
        *(("method.rounds=1",) if method == "recap" else ()),
    )
    steps, passes = Counter(), Counter()

    step, predict = loop._Loop._step, evaluate.predict

    def counting_step(self, indices):
        phase = self.phases.index
        with pretended.counting() as waits:
            loss = step(self, indices)
        if self.step in QUIET and self.phases.index == phase:  # between phases weights are fingerprinted
            steps.update(waits)
        return loss

    def counting_pass(*args):
        with pretended.counting() as waits:
            answers = predict(*args)
        passes.update(waits)
        return answers

    monkeypatch.setattr(loop._Loop, "_step", counting_step)
    monkeypatch.setattr(evaluate, "predict", counting_pass)
    record = execute(run, Store(run.results_dir, run.outputs_dir))
    assert record.status == "done" and record.checks.failures() == []
    assert record.env.device_name == "a pretended CUDA device"
    assert sum(steps.values()) <= READS.get(method, 0) * len(QUIET), steps
    assert {kind for kind, _, _ in passes} <= {"read"} and sum(passes.values()) == 2, passes  # of two epochs
    captures = is_steady(type(build_method(run))) and method not in IN_PHASES
    assert (record.training.graphs == "captured") == captures
