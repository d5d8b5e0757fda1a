"""Records made by hand for runs of table cells: complete as the schema wants them, without any training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from layertune.config import RunConfig
from layertune.records import Record, versions_of
from layertune.records.record import (
    SCHEMA,
    CacheRecord,
    ChecksRecord,
    DataRecord,
    EnvRecord,
    IdentityRecord,
    MetricsRecord,
    ModelRecord,
    SelectionRecord,
    SpecRecord,
    TrainingRecord,
    VersionsRecord,
)
from layertune.records.writer import printable_config
from layertune.report.values import CellValue

Says = Callable[..., CellValue]  # (cell, *records, readout="last") -> what the cell says of them
PROVEN = ChecksRecord(True, True, True, True, True)


def made(
    run: RunConfig,
    score: float = 0.5,
    *,
    best: float | None = None,
    metrics: dict[str, dict[str, float | str | None]] | None = None,
    run_id: str | None = None,
    status: Any = "done",
    error: str | None = None,
    created_at: str = "2026-01-02T03:04:05+00:00",
    versions: VersionsRecord | None = None,
    commit: str | None = "c" * 40,
    dirty: bool = False,
    data: str = "official",
    rows: str = "official rows",
    weights: str = "hub:model@revision",
    device: str = "GPU A",
    threads: int | None = None,
    step: float | None = 0.25,
    memory: int | None = 2**31,
    trainable: dict[str, int] | None = None,
    unused: int = 0,
    parameters: int = 1000,
    lowest: int | None = 2,
    selected: float | None = 8.0,
    cached: float = 0.0,
    checks: ChecksRecord = PROVEN,
) -> Record:
    """Return the record of a run; `score` is its metric on its own evaluation set, after the last epoch."""
    own = {run.task.data_name: {run.task.metric: score}}
    at_best = own if best is None else {run.task.data_name: {run.task.metric: best}}
    spec = (run.model.name, run.task.name, run.method.name, run.method.k, run.seed, run.protocol.name)
    finished = status == "done"
    selection = SelectionRecord(
        scorer=run.method.scorer,
        selector=run.method.selector,
        scores=(0.5, 0.25, 0.75, 0.125),
        std=(0.1, 0.1, 0.1, 0.1),
        matrix=((1.0, 0.5, 0.5, 0.5),) * 4,
        layers=(2, 4),
        examples=64,
        seconds=selected or 0.0,
        reused=True,
    )
    training = TrainingRecord(
        learning_rate=2e-5,
        head_learning_rate=None,
        batch_size=32,
        micro_batch=None,
        epochs=5,
        steps=100,
        origin={},
        history=({"epoch": 1, "metrics": own},),
        seconds=50.0,
        cpu_seconds=50.0,
        seconds_per_step_median=step,
        examples_per_second=64.0,
        tokens_per_second=1000.0,
        peak_memory_bytes=memory,
        cache=CacheRecord(used=cached > 0, reused=True, seconds=cached),
    )
    return Record(
        schema=SCHEMA,
        run_id=run_id or f"{run.model.name}-{run.task.name}-{run.method.name}-s{run.seed}",
        status=status,
        created_at=created_at,
        error=error,
        spec=SpecRecord(*spec, run.train.mode, run.grid, run.stage),
        versions=versions or versions_of(run),
        config=printable_config(run),
        identity=IdentityRecord(run.config_sha256, commit, dirty),
        env=EnvRecord(
            "3.12",
            "2.13",
            "5.23",
            None,
            None,
            device,
            None if threads else 2**37,
            "fp32",
            "seeded",
            1,
            threads or 4,
        ),
        data=DataRecord("hub:rows", None, data, rows, {"train": 64}, (), 0.0),
        model=ModelRecord(
            source="hub",
            revision=None,
            weights=weights,
            parameters=parameters,
            trainable=trainable or {"backbone": 200, "head": 30, "added": 4},
            unused=unused,
            lowest_trained_layer=lowest,
        ),
        selection=None if selected is None else selection,
        training=training if finished else None,
        metrics=MetricsRecord(metrics or own, (metrics or at_best) | {"epoch": 1}) if finished else None,
        checks=checks if finished else None,
    )


def write(folder: Path, *records: Record) -> Path:
    """Write records into a folder of their own, each under its run id; return the folder."""
    for record in records:
        record.write(folder / f"{record.run_id}.json")
    return folder
