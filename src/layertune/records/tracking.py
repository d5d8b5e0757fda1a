"""The Weights & Biases mirror of a run: written beside the record, never read back, never required.

One W&B run per run id. Whatever goes wrong here (wandb missing, no login, no network, no space) costs one
warning and is named in the record (`tracking.wandb_mode`); the run itself goes on.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from layertune.config import RunConfig
from layertune.records.record import Record, TrackingRecord, jsonable
from layertune.records.writer import printable_config

log = logging.getLogger(__name__)

INIT_SECONDS = 30  # online without a network: how long until the mirror gives up
FINISH_SECONDS = 300  # online: how long the last upload may take; what is left stays on disk for `wandb sync`

# Only what the record holds is mirrored: no code, git state, console, package list or machine statistics.
_SETTINGS: dict[str, Any] = {
    "silent": True,
    "console": "off",
    "save_code": False,
    "disable_code": True,
    "disable_git": True,
    "reinit": "create_new",  # leave a W&B run of the calling program alone
    "init_timeout": INIT_SECONDS,
    "finish_timeout": FINISH_SECONDS,
    "finish_timeout_raises": True,
    "x_disable_stats": True,
    "x_disable_meta": True,
    "x_save_requirements": False,
}


class Tracker:
    """Mirror one run to Weights & Biases, as a context manager that always closes what it opened.

    What became of the mirror (`facts`) is known when it is closed.

    Args:
        run: says the mode (online, offline, disabled), the project and the entity.
        outputs_dir: offline files lie in `<outputs_dir>/wandb`; None = the run's own.

    Attributes:
        mode: online, offline or disabled as asked; "unavailable" without wandb; "failed: <reason>" once the
            mirror went wrong.
    """

    def __init__(self, run: RunConfig, outputs_dir: str | Path | None = None) -> None:
        self.run = run
        self.folder = Path(outputs_dir if outputs_dir is not None else run.outputs_dir)
        self.mode: str = run.tracking.mode
        self._id: str | None = None
        self._step = 0
        self._exit_code = 0
        self._wandb: Any = None
        self._mirror: Any = None  # the open W&B run

    def __enter__(self) -> Tracker:
        if self.mode == "disabled":
            return self
        os.environ.setdefault("WANDB_SILENT", "true")
        try:
            import wandb
        except ImportError as error:
            self.mode = "unavailable"
            log.warning("The Weights & Biases mirror is off: wandb cannot be imported (%s).", error)
            return self
        self._wandb = wandb
        try:
            self._attempt(self._open)
        except BaseException:  # an interrupt while opening: leave no process behind
            self._close(exit_code=1)
            raise
        if self._mirror is None:
            self._close(exit_code=1)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close(exit_code=1 if kind is not None else self._exit_code)

    @property
    def facts(self) -> TrackingRecord:
        """What the record says about the mirror."""
        return TrackingRecord(wandb_id=self._id, wandb_mode=self.mode)

    def log_epoch(self, entry: Mapping[str, Any]) -> None:
        """Mirror one entry of the history; the step of the W&B run is the epoch.

        Args:
            entry: epoch, steps, loss, seconds, and metrics by evaluation set ("sst2/accuracy" in the mirror).
        """
        if self._mirror is None:
            return
        plain = {key: value for key, value in entry.items() if key != "metrics"}
        values = jsonable(plain | flatten(entry.get("metrics") or {}))
        self._step = max(self._step, int(entry["epoch"]))
        self._attempt(lambda: self._mirror.log(values, step=int(entry["epoch"])))

    def log_image(self, name: str, path: str | Path) -> None:
        """Mirror a picture, for example the heat map of layer similarities."""
        if self._mirror is None:
            return
        self._attempt(lambda: self._mirror.log({name: self._wandb.Image(str(path))}, step=self._step))

    def log_figure(self, name: str, draw: Callable[[Path], None]) -> None:
        """Draw a picture and mirror it; nothing is drawn where nothing is mirrored."""
        if self._mirror is None:
            return
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "figure.png"
            self._attempt(lambda: draw(path))
            self.log_image(name, path)

    def finish(self, record: Record) -> None:
        """Mirror the finished record as the summary; nothing enters that is not in the record."""
        if self._mirror is None:
            return
        self._exit_code = 0 if record.status == "done" else 1
        self._attempt(lambda: self._mirror.summary.update(summary_of(record)))

    def _open(self) -> None:
        run, wandb = self.run, self._wandb
        known = wandb.Settings.model_fields
        settings = {
            key: value for key, value in _SETTINGS.items() if key in known or not key.startswith("x_")
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.mode == "online" and not wandb.login(prompt=False, verify=False):
            raise RuntimeError("no W&B login: run `wandb login`, or choose tracking=offline")
        names = (run.model.name, run.task.name, run.method.name, run.protocol.name)
        self._mirror = wandb.init(
            project=run.tracking.project,
            entity=run.tracking.entity,
            id=run.run_id,
            name=run.run_id,
            group=cell_of(run),
            tags=list(dict.fromkeys(names)),
            config={**printable_config(run), "config_sha256": run.config_sha256},
            mode=self.mode,
            dir=str(self.folder),
            resume=self._resume(),
            settings=wandb.Settings(**settings),
        )
        self._id = str(self._mirror.id)  # an agent of a W&B sweep gives its own
        self._step = int(self._mirror.step)

    def _resume(self) -> str | None:
        # A run that may go on from a checkpoint continues its W&B run (W&B drops epochs it has); any other
        # repeat of the id replaces it. Offline nothing is uploaded yet: there is nothing to continue.
        may_continue = self.run.checkpoint.every_steps is not None and not self.run.force
        return "allow" if self.mode == "online" and may_continue else None

    def _attempt(self, action: Callable[[], Any]) -> None:
        try:
            action()
        except Exception as error:  # whatever wandb raises: a mirror never costs a run
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        self.mode = f"failed: {reason}"
        log.warning("The Weights & Biases mirror of %s is off: %s", self.run.run_id, reason)
        broken, self._mirror = self._mirror, None
        if broken is not None:
            self._finish(broken, exit_code=1)

    def _finish(self, mirror: Any, exit_code: int) -> None:
        try:
            mirror.finish(exit_code=exit_code)
        except Exception as error:
            log.warning("The Weights & Biases mirror of %s did not close cleanly: %s", self.run.run_id, error)

    def _close(self, exit_code: int) -> None:
        mirror, self._mirror = self._mirror, None
        if mirror is not None:
            self._finish(mirror, exit_code)
            if self.mode == "offline":
                self._attempt(lambda: _require_file(mirror))
        wandb, self._wandb = self._wandb, None
        if wandb is not None and wandb.run is None:  # no run of the program's own needs the helper process
            try:
                wandb.teardown(exit_code=exit_code)
            except Exception as error:
                log.warning("The wandb helper process did not end cleanly: %s", error)


def _require_file(mirror: Any) -> None:
    """Raise FileNotFoundError where the file of an offline mirror is not there: wandb does not say so."""
    file = Path(mirror.settings.sync_file)
    if not file.is_file() or file.stat().st_size == 0:
        raise FileNotFoundError(f"{file.name} is gone")


def cell_of(run: RunConfig) -> str:
    """Return the table cell a run belongs to: its run id without seed and hash."""
    return run.run_id.rsplit("-", 2)[0]


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a nested mapping as one level, keys joined by slashes; lists stay whole."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{name}/")
        else:
            flat[name] = value
    return flat


def summary_of(record: Record) -> dict[str, Any]:
    """Return a record's summary, in one level: status, metrics, cost, trainable counts, layers, checks."""
    tree = json.loads(record.to_json())
    summary: dict[str, Any] = {"status": record.status}
    if record.metrics is not None:
        summary |= flatten(tree["metrics"])
    if record.training is not None:
        cost = ("seconds", "steps", "seconds_per_step_median", "peak_memory_bytes")
        summary |= {f"training/{key}": tree["training"][key] for key in cost}
        summary |= flatten(tree["training"]["cache"], "cache/")
    if record.model is not None:
        summary["parameters"] = record.model.parameters
        summary |= flatten(tree["model"]["trainable"], "trainable/")
    if record.selection is not None:
        summary |= {"layers": tree["selection"]["layers"], "selection/seconds": record.selection.seconds}
    if record.checks is not None:
        summary |= flatten(tree["checks"], "checks/")
    return summary
