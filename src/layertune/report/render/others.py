"""Records that none of the ten tables shows: other methods, other settings, of a model that has no tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace

from layertune.report.aggregate import ReadOut
from layertune.report.index import RunRecord
from layertune.report.render.request import Request

_SAID = ("model", "task", "method", "seed", "protocol", "train", "grid", "stage", "tracking", "force")
_PATHS = ("data_dir", "results_dir", "outputs_dir", "model.path", "train.num_threads")


@dataclass(frozen=True)
class OtherRuns:
    """Seeds of one configuration that no table asks for."""

    task: str
    method: str
    settings: str  # protocol, mode and grid, and what else was asked for
    status: str
    scores: tuple[str, ...]  # as printed, in order of the runs
    runs: tuple[tuple[str, str], ...]  # seed, run id
    is_official: bool


def other_runs(records: Iterable[RunRecord], readout: ReadOut) -> list[OtherRuns]:
    """Put the seeds of a configuration together, in order of task, method and settings."""
    groups: dict[tuple[str, str, str, str, bool], list[RunRecord]] = {}
    for record in records:
        spec = record.sections["spec"]
        key = (str(spec["task"]), _method(record), _settings(record), record.status, record.is_official)
        groups.setdefault(key, []).append(record)
    found = []
    for key in sorted(groups):
        seeds = sorted(groups[key], key=lambda record: (record.seed, record.run_id))
        task, method, settings, status, is_official = key
        found.append(
            OtherRuns(
                task,
                method,
                settings,
                status,
                tuple(_score(record, readout) for record in seeds),
                tuple((str(record.seed), record.run_id) for record in seeds),
                is_official,
            )
        )
    return found


def other_settings(records: Iterable[RunRecord], request: Request) -> str:
    """Return the command whose tables would show most of some records; "" where the request asks for it.

    A table shows only records of its own settings: those of `train.epochs=3` appear where that is asked.
    """
    asked = Counter(_own(record) for record in records if record.sections["spec"]["stage"] == "run")
    if not asked:
        return ""
    most = min(asked, key=lambda words: (-asked[words], words))
    return "" if set(most) == set(request.overrides) else replace(request, overrides=most).make()


def _method(record: RunRecord) -> str:
    spec = record.sections["spec"]
    return str(spec["method"]) + (f", k = {spec['k']}" if spec.get("k") is not None else "")


def _settings(record: RunRecord) -> str:
    """Name mode and overrides; what the columns say, paths and threads are left out."""
    spec = record.sections["spec"]
    return ", ".join(
        [f"protocol {spec['protocol']}, train {spec['train']}, grid {spec['grid']}", *_own(record)]
    )


def _own(record: RunRecord) -> tuple[str, ...]:
    """Return the overrides of a record that are not about what its columns say, paths or threads."""
    given = record.sections["spec"].get("overrides") or ()
    return tuple(text for text in given if text.partition("=")[0] not in (*_SAID, *_PATHS))


def _score(record: RunRecord, readout: ReadOut) -> str:
    """Return the first metric of the first evaluation set, in percent; "none" of a run that is not done."""
    for evaluated in (record.sections["metrics"].get(readout) or {}).values():
        if isinstance(evaluated, dict) and record.status == "done":
            for name, value in evaluated.items():
                if isinstance(value, int | float):
                    return f"{name} {100 * value:.1f}"
    return "none"
