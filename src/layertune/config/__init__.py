"""The configuration of a run: typed, checked before anything else happens, and its identity."""

from layertune.config.run import RunConfig
from layertune.config.schema import (
    CacheSpec,
    CheckpointSpec,
    MethodSpec,
    ModelSpec,
    ProtocolSpec,
    ScoringSpec,
    TrackingSpec,
    TrainSpec,
)
from layertune.config.schema_base import TrainDefaults
from layertune.config.schema_task import DecodingSpec, HubSource, TaskSpec

__all__ = [
    "CacheSpec",
    "CheckpointSpec",
    "DecodingSpec",
    "HubSource",
    "MethodSpec",
    "ModelSpec",
    "ProtocolSpec",
    "RunConfig",
    "ScoringSpec",
    "TaskSpec",
    "TrackingSpec",
    "TrainDefaults",
    "TrainSpec",
]
