"""A small run and a complete record, written out by hand; no Hydra, no torch."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from layertune.config import RunConfig
from layertune.config.run import run_from_hydra
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
    TrackingRecord,
    TrainingRecord,
)


@pytest.fixture
def make_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., RunConfig]:
    """Return a builder of small runs; arguments replace keys of the run (`method`: keys of the method)."""
    monkeypatch.delenv("LAYERTUNE_DATA", raising=False)

    def build(**changes: Any) -> RunConfig:
        method = {"name": "low_k", "kind": "selected", "scorer": "cosine", "selector": "lowest", "k": 2}
        tree: dict[str, Any] = {
            "model": {
                "name": "tiny_bert",
                "source": "random",
                "num_layers": 4,
                "random_config": {"hidden_size": 32},
            },
            "task": {"name": "demo", "source": "synthetic", "labels": ["negative", "positive"]},
            "method": {**method, **changes.pop("method", {})},
            "protocol": {"name": "paper"},
            "train": {"epochs": 2},
            "results_dir": str(tmp_path / "results"),
            "outputs_dir": str(tmp_path / "outputs"),
        }
        return run_from_hydra({**tree, **changes})

    return build


@pytest.fixture
def make_record() -> Callable[..., Record]:
    """Return a builder of complete records of a run; keyword arguments replace sections."""

    def build(run: RunConfig, **changes: Any) -> Record:
        epochs = (
            {
                "epoch": 1,
                "steps": 4,
                "loss": 0.7,
                "seconds": 1.5,
                "metrics": {"demo": {"accuracy": 0.75, "f1": None}},
            },
            {
                "epoch": 2,
                "steps": 8,
                "loss": 0.5,
                "seconds": 1.25,
                "metrics": {"demo": {"accuracy": 0.5, "f1": 0.25}},
            },
        )
        record = Record(
            schema=SCHEMA,
            run_id=run.run_id,
            status="done",
            created_at="2026-01-02T03:04:05+00:00",
            error=None,
            spec=SpecRecord(
                model=run.model.name,
                task=run.task.name,
                method=run.method.name,
                k=run.method.k,
                seed=run.seed,
                protocol=run.protocol.name,
                train=run.train.mode,
                grid=run.grid,
                stage=run.stage,
                overrides=("model=tiny_bert", "train.epochs=2"),
            ),
            versions=versions_of(run),
            config={"seed": run.seed, "model": {"name": run.model.name}, "labels": ("négatif", "positif")},
            identity=IdentityRecord(run.config_sha256, "0" * 40, False),
            env=EnvRecord(
                python="3.12.3",
                torch="2.13.0",
                transformers="5.23.0",
                datasets=None,
                peft=None,
                device_name="cpu",
                device_memory_bytes=None,
                precision="fp32",
                determinism="seeded",
                num_processes=1,
                num_threads=2,
            ),
            data=DataRecord(
                source="synthetic",
                revision=None,
                status="synthetic",
                fingerprint_sha256="a" * 64,
                counts={"train": 64, "demo": 32},
                labels=("negative", "positive"),
                truncated_fraction=0.0,
            ),
            model=ModelRecord(
                source="random",
                revision=None,
                weights="random:0",
                parameters=1000,
                trainable={"backbone": 200, "head": 34, "added": 0},
                unused=0,
                lowest_trained_layer=2,
            ),
            selection=SelectionRecord(
                scorer="cosine",
                selector="lowest",
                scores=(0.5, 0.25, 0.125, 0.75),
                std=(0.1, 0.2, 0.3, 0.4),
                matrix=((1.0, 0.5, 0.5, 0.5),) * 4,
                layers=(2, 3),
                examples=64,
                seconds=0.5,
                reused=False,
            ),
            training=TrainingRecord(
                learning_rate=2e-5,
                head_learning_rate=None,
                batch_size=16,
                micro_batch=None,
                epochs=2,
                steps=8,
                origin={"epochs": "command line"},
                history=epochs,
                seconds=2.75,
                cpu_seconds=2.5,
                seconds_per_step_median=0.3,
                examples_per_second=46.5,
                tokens_per_second=500.0,
                peak_memory_bytes=None,
                cache=CacheRecord(used=True, seconds=0.125, cpu_seconds=0.25, bytes=4096),
            ),
            metrics=MetricsRecord(
                last={"demo": {"accuracy": 0.5, "f1": 0.25}},
                best={"demo": {"accuracy": 0.75, "f1": None}, "epoch": 1},
            ),
            checks=ChecksRecord(
                frozen_unchanged=True,
                trained_changed=True,
                loss_finite=True,
                trainable_matches_selection=None,
                beats_majority=False,
            ),
            tracking=TrackingRecord(wandb_id=None, wandb_mode="disabled"),
        )
        return dataclasses.replace(record, **changes)

    return build


@pytest.fixture(autouse=True)
def _no_account(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the home folder, its credentials and W&B's variables of the machine out of the tests."""
    for name in [key for key in os.environ if key.startswith("WANDB_") and key != "WANDB_SILENT"]:
        monkeypatch.delenv(name)
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("NETRC", str(home / "netrc"))


@pytest.fixture
def wandb_helpers() -> Callable[[], list[int]]:
    """Return a function that lists the wandb helper processes this process started."""
    proc = Path("/proc")
    if not proc.is_dir():
        pytest.skip("child processes are read from /proc, which this system does not have")

    def listed() -> list[int]:
        found = []
        for entry in proc.glob("[0-9]*/stat"):
            try:
                name, _, rest = entry.read_text().partition("(")[2].rpartition(")")
            except OSError:  # it ended while we looked
                continue
            state, parent = rest.split()[:2]
            if int(parent) == os.getpid() and "wandb" in name and state != "Z":
                found.append(int(entry.parent.name))
        return found

    return listed
