"""Records of runs: what is kept, where, and its mirror. Nothing here imports torch."""

from layertune.records.record import Record, read_record
from layertune.records.store import Store, versions_of

__all__ = ["Record", "Store", "read_record", "versions_of"]
