"""Training: the one loop, its optimiser, its clock and its checkpoints."""

from layertune.training.loop import train
from layertune.training.outcome import TrainOutcome
from layertune.training.runtime import Runtime, prepare_runtime

__all__ = ["Runtime", "TrainOutcome", "prepare_runtime", "train"]
