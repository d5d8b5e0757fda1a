"""The configuration of a run: typed, checked before anything else happens, and its identity."""

from layertune.config.run import RunConfig
from layertune.config.schema import (
    CacheSpec,
    CheckpointSpec,
    DecodingSpec,
    HubSource,
    MethodSpec,
    ModelSpec,
    ProtocolSpec,
    ScoringSpec,
    TaskSpec,
    TrackingSpec,
    TrainDefaults,
    TrainSpec,
)

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
