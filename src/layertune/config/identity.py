"""What makes two runs the same: the identity of a configuration, the keys of its data and weights, and the
run id.

`config_sha256` hashes what was asked for; the run id adds which data and which weights answered. Both are
known before a row is read or a weight is loaded.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layertune.config.files import (
    label_order,
    local_split_file,
    noted_sha256,
    own_files,
    resolved_data_dir,
    splits_needed,
)
from layertune.config.schema import TaskSpec
from layertune.config.weights import weights_files, weights_folder

if TYPE_CHECKING:
    from layertune.config.run import RunConfig


SYNTHETIC_REVISION = "grammar-1"  # raised when the generated sentences change


# Those that read `scoring.tokens`:
TOKEN_SCORERS = ("io_cosine", "feature_variance", "block_influence", "angular")
# Means over examples: a few may decide.
EXAMPLE_SCORERS = ("cosine", "euclidean", "io_cosine", "block_influence", "angular", "fisher")
GRADIENT_SCORERS = ("gradient_norm", "fisher")  # read labels, and run a backward pass
WEIGHT_SCORERS = ("spectrum", "weight_norm")  # read no row
RANKING_SELECTORS = (
    "highest",
    "lowest",
    "block_highest",
    "block_lowest",
    "block_median",
    "block_median_upper",
)


def can_be_adaptive(run: RunConfig) -> bool:
    """Whether few examples may decide the layers: scores are means over examples, and are ranked."""
    return run.method.scorer in EXAMPLE_SCORERS and run.method.selector in RANKING_SELECTORS


def identity_of_run(run: RunConfig) -> dict[str, Any]:
    """Return the identity of a run: what can change a number, without options that nothing reads."""
    tree = identity_of(run)
    generated, scorer = run.task.kind == "generation", run.method.scorer
    inert = {"protocol": ("eval_examples",) if generated else ("eval_meanings", "dev_meanings")}
    if scorer not in TOKEN_SCORERS:
        inert["scoring"] = ("tokens",)
    if scorer is None or scorer in WEIGHT_SCORERS:
        inert |= {"scoring": ("tokens", "examples"), "task": ("score_text",)}
    if run.train.mode == "published":
        tree.pop("cache", None)
    for group, keys in inert.items():
        for key in keys:
            tree.get(group, {}).pop(key, None)
    if not tree.get("scoring", True):
        del tree["scoring"]
    return tree


def identity_of(value: Any) -> dict[str, Any]:
    """Return the identity of a dataclass: nested, sorted, without values at their neutral default."""
    result: dict[str, Any] = {}
    for field in dataclasses.fields(value):
        rule = field.metadata.get("identity", True)
        if rule is False:
            continue
        item = getattr(value, field.name)
        if dataclasses.is_dataclass(item):
            item = identity_of(item)
            if item:
                result[field.name] = item
        elif field.name == "options":
            result.update(
                {
                    key: _plain(option)
                    for key, option in item.items()
                    if not (option is None or option is False)
                }
            )
        elif rule == "always" or item != _default(field):
            result[field.name] = _plain(item)
    return dict(sorted(result.items()))


def _default(field: dataclasses.Field[Any]) -> Any:
    if "neutral" in field.metadata:
        return field.metadata["neutral"]
    if field.default is not dataclasses.MISSING:
        return field.default
    return (
        field.default_factory() if field.default_factory is not dataclasses.MISSING else dataclasses.MISSING
    )


def _plain(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in sorted(value.items())}
    return value


def sha256_of(value: Any) -> str:
    """Return the hash of a plain value through its canonical JSON form."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def data_key(run: RunConfig) -> str:
    """Say which data answer this run: hub ids at their revisions, or the sha256 of the local files."""
    if run.task.source == "synthetic":
        return f"synthetic:{run.task.name}@{SYNTHETIC_REVISION}"
    if run.task.source == "own":
        files, own = own_files(run.own), run.own
        read = [own.text, own.text2, own.label, own.regression]
        source = f"hub:{own.train}@{own.revision or 'main'}"
        content = source if files is None else [_sha256(path, run) for path in files]
        return "own:" + sha256_of([content, read])
    folder = resolved_data_dir(run.data_dir)
    if folder is None:
        return ",".join(_hub_key(task) for task in (run.task, *run.task.foreign.values()))
    files = [local_split_file(folder, task, split) for task, split in splits_needed(run.task, run.protocol)]
    hashes: list[object] = [_sha256(path, run) for path in files]
    orders = [label_order(folder, path, run.task.labels) for path in files]
    renumbered = [orders] if any(orders) else []
    return "sha256:" + sha256_of([*hashes, *renumbered])


def _hub_key(task: TaskSpec) -> str:
    hub = task.hub
    assert hub is not None, f"task {task.name} has no hub source"
    return f"hub:{hub.id}/{hub.config or 'default'}@{hub.revision or 'main'}"


def weights_key(run: RunConfig) -> str:
    """Say which weights answer this run: hub id and revision, sha256 of local files, or the random recipe."""
    folder = weights_folder(run.model)
    if folder is not None:
        return "sha256:" + sha256_of([_sha256(path, run) for path in weights_files(folder)])
    if run.model.source == "random":
        return "random:" + sha256_of(run.model.random_config)
    return f"hub:{run.model.source}@{run.model.revision}"


def _sha256(path: Path, run: RunConfig) -> str:
    return noted_sha256(path, run.cache_dir / "file_sha256")


def run_id(run: RunConfig) -> str:
    """Return `<model>-<task>-<method>[-k<k>]-s<seed>-<hash8>`."""
    digest = sha256_of([run.config_sha256, data_key(run), weights_key(run)])[:8]
    k = f"-k{run.method.k}" if run.method.k is not None else ""
    return f"{run.model.name}-{run.task.name}-{run.method.name}{k}-s{run.seed}-{digest}"
