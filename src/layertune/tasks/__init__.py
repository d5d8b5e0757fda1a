"""Task data: rows from the hub, a local folder or the generator, encoded once, in seeded batches."""

from layertune.tasks.batches import epoch_batches, in_parts, sorted_batches
from layertune.tasks.encode import Batch, Split, TokenStore
from layertune.tasks.meanings import Meanings
from layertune.tasks.sources import TaskData, load_task

__all__ = [
    "Batch",
    "Meanings",
    "Split",
    "TaskData",
    "TokenStore",
    "epoch_batches",
    "in_parts",
    "load_task",
    "sorted_batches",
]
