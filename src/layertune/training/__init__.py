"""Training: the one loop, its optimiser, its clock and its checkpoints."""

from layertune.training.loop import train
from layertune.training.outcome import TrainOutcome

__all__ = ["TrainOutcome", "train"]
