"""A trained model in a folder (`save=<folder>`), and back: written once a run's record is, read by `load`."""

from layertune.saved.keep import end_interrupted, keep_model, refuse_without_room
from layertune.saved.load import SavedModel, load

__all__ = ["SavedModel", "end_interrupted", "keep_model", "load", "refuse_without_room"]
