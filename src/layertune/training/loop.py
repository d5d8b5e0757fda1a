"""The one training loop: every method trains here and acts through its hooks (§4.4, Algorithm 1, last line).

An epoch is a fixed list of batches. Each batch is one optimiser step, and is split into micro-batches where
it does not fit into memory at once. A step reads no value back from the device, which would make the host
wait: losses are summed on the device and read once per epoch.
"""

from __future__ import annotations

import logging
import math
import sys
from itertools import cycle, islice
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from layertune.config import RunConfig
from layertune.errors import ConfigError
from layertune.evaluation.evaluate import picks_best, score_epoch, score_rest, waiting_splits
from layertune.fast import FastStepper, PlainStepper
from layertune.methods import Method, moves
from layertune.records.record import Scores
from layertune.runtime import PeakMemory, Runtime, Stopwatch, seed_everything
from layertune.tasks import TaskData, epoch_batches, in_parts
from layertune.training.best import BestEpoch, copies
from layertune.training.checkpoint import Checkpoint
from layertune.training.outcome import Evaluated, TrainOutcome
from layertune.training.phases import Phases

if TYPE_CHECKING:
    from layertune.models import TaskModel
    from layertune.records.tracking import Tracker

log = logging.getLogger(__name__)


def train(
    run: RunConfig, model: TaskModel, data: TaskData, method: Method, runtime: Runtime, track: Tracker
) -> TrainOutcome:
    """Train a prepared model and evaluate it after each epoch; the timed seconds are those of training alone.

    Raises:
        Interruption: the run was asked to stop, and a checkpoint of its state is on disk.
    """
    if run.train.activation_checkpointing:
        model.backbone.enable_activation_checkpointing()
    # Preparing draws more or fewer random numbers from method to method. Seeded anew, all methods of one seed
    # see the same dropout.
    seed_everything(run.seed)
    return _Loop(run, model, data, method, runtime, track).train()


class _Loop:
    """One training: what it works on, and how far it has come."""

    def __init__(
        self,
        run: RunConfig,
        model: TaskModel,
        data: TaskData,
        method: Method,
        runtime: Runtime,
        track: Tracker,
    ) -> None:
        self.run, self.model, self.data, self.method = run, model, data, method
        self.runtime, self.track = runtime, track
        self.epochs_asked = method.epochs(run.train.epochs or 1)
        self.epochs = 1 if run.protocol.max_steps else self.epochs_asked
        self.lengths = data.train.store.lengths
        self.total_steps = sum(len(self.batches(epoch)) for epoch in range(1, self.epochs + 1))
        self.watch = Stopwatch(runtime.device)
        self.evaluating = Stopwatch(runtime.device)  # of one epoch; at the end of the read-outs
        self.phases = Phases(run, model, method, self.total_steps, self.watch)
        self.stepper = (FastStepper if run.train.mode == "fast" else PlainStepper)(run, data, runtime)
        self.checkpoint = Checkpoint(run, data, runtime.device)
        self.memory = PeakMemory(runtime.device)
        self.waiting = waiting_splits(run, data)
        self.keeps_best = run.save is not None and run.save_epoch == "best"
        self.best = BestEpoch(run.task, keep_weights=bool(self.waiting) or self.keeps_best)
        self.history: list[dict[str, Any]] = []
        self.epoch, self.done = 1, 0  # the epoch in progress, and how many of its steps are finished
        self.step = 0  # finished steps of all epochs
        self.loss_sum = 0.0  # of the finished steps of the epoch in progress
        self.read_outs: tuple[dict[str, Scores], dict[str, Any]] | None = None  # last and best, at the end

    def batches(self, epoch: int) -> list[np.ndarray]:
        """Return the row numbers of each batch of an epoch, which is counted from 1.

        The timing protocol takes a given number of steps: it goes round the batches of its only epoch until
        it has as many.
        """
        run = self.run
        assert run.train.batch_size is not None, "a run is resolved"
        order = epoch_batches(
            self.lengths, run.train.batch_size, seed=run.seed, epoch=epoch, task=run.task.name
        )
        if run.protocol.max_steps is None:
            return order
        return list(islice(cycle(order), (run.protocol.warmup_steps or 0) + run.protocol.max_steps))

    def train(self) -> TrainOutcome:
        """Train all epochs that a checkpoint has not finished, then take the read-outs.

        Training ends early only where the loss is no longer finite. However it ends, also by an error, the
        model computes afterwards as the library wrote it.
        """
        try:
            self.checkpoint.resume(self._take_up)
            with self.checkpoint.listening(), self._bar() as bar:
                while not self._is_over():
                    self._train_epoch(bar)
                    self._close_epoch()
                self._read_out()
            return self._outcome()
        finally:
            self.stepper.close(self.model)

    def _read_out(self) -> None:
        """Take the read-outs, unless the run was interrupted after it had taken them."""
        if self.read_outs is not None:
            return
        if self.waiting:  # scoring these splits may take long: a stop meanwhile must lose no training
            self._keep()
        # Where a run is resumed at this point no step has set up the stepper yet.
        self.stepper.follow(self.phases, new_epoch=True)
        with self.evaluating.counting():
            self.read_outs = self._read_outs()
        self._keep()

    def _is_over(self) -> bool:
        """Whether all epochs are in the history, or one whose loss is not finite is."""
        return self.epoch > self.epochs or not all(math.isfinite(entry["loss"]) for entry in self.history)

    def _keep(self) -> None:
        """Write a checkpoint, if the run asks for checkpoints."""
        if self.checkpoint.every is not None:
            self.checkpoint.save(self._progress())

    def _train_epoch(self, bar: tqdm[Any]) -> None:
        batches = self.batches(self.epoch)
        self.phases.enter(self.step)
        self.phases.trained.train()
        self.stepper.follow(self.phases, new_epoch=True)
        if self.done == 0:
            self.method.on_epoch_start(self.phases.trained, self.epoch)
        loss_sum = torch.tensor(self.loss_sum, dtype=torch.float64, device=self.runtime.device)
        self.watch.start()
        for indices in batches[self.done :]:
            if self.step == self.run.protocol.warmup_steps:
                self._forget_warmup()
            loss_sum += self._step(indices)
            self.done += 1
            self.watch.step(len(indices), int(self.lengths[indices].sum()))
            self._show(bar, loss_sum)
            if self.checkpoint.due(self.step):
                self.watch.stop()
                self.loss_sum = float(loss_sum)
                self.checkpoint.save(self._progress())
                self.watch.start()
        self.watch.stop()
        self.loss_sum = float(loss_sum)

    def _step(self, indices: np.ndarray) -> Tensor:
        """Take one optimiser step on a batch; return its mean loss, which stays on the device."""
        phases = self.phases
        phases.enter(self.step)
        self.stepper.follow(phases)
        self.step += 1
        self.method.before_step(phases.trained, self.step)
        phases.witness.before_step(moves(phases.optimizer))
        loss = torch.zeros((), device=self.runtime.device)
        generated = self.data.kind == "generation"
        for batch, share in in_parts(self.stepper.batch, indices, self.run.train.micro_batch, generated):
            loss += self.stepper.gradient(batch, share)
        phases.witness.after_backward()
        self.method.after_backward(phases.trained, self.step)
        if self.run.train.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(phases.held.values(), self.run.train.clip_norm)
        phases.optimizer.step()
        phases.schedule.step()
        phases.optimizer.zero_grad(set_to_none=True)
        self.method.after_step(phases.trained, self.step)
        phases.witness.after_step()
        return loss

    def _forget_warmup(self) -> None:
        """Start to time anew: the warm-up steps of the timing protocol are over."""
        self.watch.stop()
        self.watch.reset()
        self.watch.start()

    def _close_epoch(self) -> None:
        """Evaluate the epoch, add it to the history and go on to the next.

        An epoch whose loss is not finite is not gone beyond: it stays the last one.
        """
        self.evaluating.reset()
        with self.evaluating.counting():
            metrics = self._evaluate()
        before = sum(entry["seconds"] for entry in self.history)
        entry = {
            "epoch": self.epoch,
            "steps": self.step,
            "loss": self.loss_sum / max(1, self.done),
            "seconds": self.watch.seconds - before,
            "evaluation_seconds": self.evaluating.seconds,
            "metrics": metrics,
        }
        self.history.append(entry)
        self.evaluating.reset()
        self.track.log_epoch(entry)
        shown = " ".join(
            f"{name} {value:.4f}"
            for scores in metrics.values()
            for name, value in scores.items()
            if isinstance(value, float)
        )
        log.info(
            "epoch %d/%d: loss %.4f, %s, %.1f s",
            self.epoch,
            self.epochs,
            entry["loss"],
            shown or "not evaluated",
            entry["seconds"],
        )
        if math.isfinite(self.loss_sum):
            self.epoch, self.done, self.loss_sum = self.epoch + 1, 0, 0.0

    def _evaluate(self) -> dict[str, Scores]:
        """Score the epoch; if it is the best so far, keep what the read-out of the best epoch needs."""
        protocol = self.run.protocol
        scored = protocol.evaluate and (protocol.every_epoch or self.epoch == self.epochs)
        if not scored or not math.isfinite(self.loss_sum):
            return {}
        model = self.method.eval_model(self.phases.trained)
        metrics = score_epoch(self.run, model, self.data, self.runtime)
        is_best = picks_best(self.run) and self.best.offer(
            self.epoch, metrics, self.model, self.phases.may_change()
        )
        # RECAP discards the model of each epoch, so what is to be known of the best one is taken now.
        if is_best and not self.phases.own:
            if self.waiting:
                self.best.rest = self._score_rest(self.phases.trained, self.epoch)
            if self.keeps_best:
                names = dict(self.phases.trained.named_parameters())
                self.best.apart = self.method.structure(), copies(self.phases.trained, names)
        return metrics

    def _read_outs(self) -> tuple[dict[str, Scores], dict[str, Any]]:
        """Return the scores after the last epoch and those of the best epoch.

        The splits that are scored at these two epochs alone (foreign ones, the test split of a generation
        task) are scored here. Both are empty where nothing was evaluated or the loss is not finite.
        """
        if not self.history[-1]["metrics"] or not math.isfinite(self.loss_sum):
            return {}, {}
        final = self.history[-1]["epoch"]
        last: dict[str, Scores] = dict(self.history[-1]["metrics"])
        if self.waiting:
            last |= self._score_rest(self.phases.trained, final)
        if self.best.epoch is None:
            return self._own_first(last), {}
        best: dict[str, Any] = dict(self.best.metrics)
        if self.best.rest is not None:
            best |= self.best.rest
        elif self.best.epoch == final:  # the same weights
            best |= {name: last[name] for name in self.waiting}
        elif self.waiting:
            with self.best.weights(self.model):
                best |= self._score_rest(self.model, self.best.epoch)
        return self._own_first(last), self._own_first(best) | {"epoch": self.best.epoch}

    def _own_first(self, scores: dict[str, Any]) -> dict[str, Any]:
        """Return scores with those of the task's own data set first, where a reader looks for them."""
        own = self.run.task.data_name
        return {name: scores[name] for name in sorted(scores, key=lambda name: name != own)}

    def _score_rest(self, trained: TaskModel, epoch: int) -> dict[str, Scores]:
        return score_rest(self.run, self.method.eval_model(trained), self.data, self.runtime, epoch)

    def _outcome(self) -> TrainOutcome:
        assert self.read_outs is not None
        last, best = self.read_outs
        evaluated = None if self.run.save is None else self._evaluated()
        self.phases.finish()
        watch, asked = self.watch, self.run.train
        assert asked.learning_rate is not None and asked.batch_size is not None, "a run is resolved"
        return TrainOutcome(
            learning_rate=asked.learning_rate,
            head_learning_rate=asked.head_learning_rate,
            batch_size=asked.batch_size,
            micro_batch=asked.micro_batch,
            origin=dict(self.run.origin),
            history=tuple(self.history),
            evaluation_seconds=self.evaluating.seconds
            + sum(entry.get("evaluation_seconds", 0.0) for entry in self.history),
            last=last,
            best=best,
            seconds=watch.seconds,
            cpu_seconds=watch.cpu_seconds,
            seconds_per_step_median=float(np.median(watch.steps)) if watch.steps else None,
            step_seconds=tuple(watch.steps if self.runtime.device.type == "cuda" else watch.cpu_steps),
            peak_memory_bytes=self.memory.read(),
            steps=self.step,
            examples_per_second=watch.examples / watch.seconds,
            tokens_per_second=watch.tokens / watch.seconds,
            loss_finite=math.isfinite(self.loss_sum),
            epochs=self.epochs_asked,
            phases=tuple(self.phases.reports),
            facts=self.method.facts(),
            cache=self.stepper.cost,
            graphs=self.stepper.graphs,
            evaluated=evaluated,
        )

    def _evaluated(self) -> Evaluated:
        """Return the model to be saved: that of the last epoch, or of the best under `save_epoch=best`."""
        trained, final = self.method.eval_model(self.phases.trained), self.history[-1]["epoch"]
        one_token = trained.backbone.last_block is not None
        if not self.keeps_best or self.best.epoch in (None, final):
            structure = None if self.phases.own else self.method.structure()
            return Evaluated(final, trained, structure, {}, one_token)
        if self.best.apart is None:
            if not self.best.kept:
                raise ConfigError(
                    "the checkpoint this run went on from was made without save_epoch=best, and the weights "
                    f"of the best epoch ({self.best.epoch}) are gone: say save_epoch=last, or force=true."
                )
            return Evaluated(self.best.epoch, self.model, None, self.best.kept, one_token)
        structure, weights = self.best.apart
        return Evaluated(
            self.best.epoch, self.method.rebuilt(self.model, structure), structure, weights, one_token
        )

    def _progress(self) -> dict[str, Any]:
        kept = {name: getattr(self, name) for name in self._NUMBERS}
        return kept | {name: getattr(self, name).state() for name in self._PARTS}

    def _take_up(self, progress: dict[str, Any]) -> None:
        for name in self._PARTS:
            getattr(self, name).load(progress[name])
        for name in self._NUMBERS:
            setattr(self, name, progress[name])

    _NUMBERS = ("history", "epoch", "done", "step", "loss_sum", "read_outs")
    # The phases come before the watch: to resume a phase adds seconds to the watch, which its own saved state
    # then replaces.
    _PARTS = ("phases", "watch", "best", "memory", "stepper")

    def _bar(self) -> tqdm[Any]:
        return tqdm(
            total=self.total_steps,
            initial=self.step,
            desc=f"{self.run.method.name} on {self.run.task.name}",
            unit="step",
            disable=not sys.stderr.isatty(),
            leave=False,
        )

    def _show(self, bar: tqdm[Any], loss_sum: Tensor) -> None:
        if not bar.disable and self.step % 20 == 0:  # not more often: the host waits for the loss to be there
            bar.set_postfix(loss=f"{float(loss_sum) / self.done:.4f}", epoch=self.epoch, refresh=False)
        bar.update()
