"""One run: a composed Hydra configuration becomes a frozen `RunConfig`, or one clear sentence.

Nothing after this module sees a `DictConfig`. `train.*` values are resolved in `layertune.config.rates`,
checks that involve several groups are in `layertune.config.checks`.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from layertune.config.build import build_dataclass, build_method_spec, convert, hints_of
from layertune.config.checks import check_run
from layertune.config.groups import group_file
from layertune.config.identity import identity_of_run, run_id, sha256_of
from layertune.config.rates import build_recipe, resolve_training
from layertune.config.schema import (
    METRICS_OF_KIND,
    CacheSpec,
    CheckpointSpec,
    Folder,
    Grid,
    IsPath,
    MethodSpec,
    ModelSpec,
    Name,
    OwnSpec,
    ProtocolSpec,
    ScoringSpec,
    Seed,
    TaskSpec,
    TrackingSpec,
    TrainSpec,
    always_identity,
    derived,
    not_identity,
)
from layertune.errors import ConfigError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunConfig:
    """One run, complete and checked. `layertune.config.compose` makes it from a list of overrides."""

    model: ModelSpec
    task: TaskSpec
    method: MethodSpec
    protocol: ProtocolSpec
    train: TrainSpec
    scoring: ScoringSpec = field(default_factory=ScoringSpec)
    cache: CacheSpec = field(default_factory=CacheSpec)
    grid: Grid = not_identity("paper")  # identity holds the rates that follow from it
    seed: Seed = always_identity(0)
    # The classification head; None, and what says the same, = the method's where it names one, else the
    # model's. A task of one's own takes `standard`, the architecture's own, where nothing else is said.
    head: Literal["concat", "pooled", "standard"] | None = None
    stage: Literal["run", "score"] = "run"
    # Generation: outputs of the dev split after each epoch, or outputs at the end only (and no best epoch).
    eval_generation: Literal["every", "last"] = not_identity("every")
    tracking: TrackingSpec = not_identity(factory=TrackingSpec)
    checkpoint: CheckpointSpec = not_identity(factory=CheckpointSpec)
    force: bool = not_identity(False)
    save: Folder | None = not_identity()  # where the trained model is kept
    save_epoch: Literal["last", "best"] = not_identity("last")
    merge: bool = not_identity(False)  # save LoRA and (IA)³ folded into the weights
    own: OwnSpec = not_identity(factory=OwnSpec)  # its files and columns are part of the run id
    data_dir: Folder | None = not_identity()
    results_dir: Folder = not_identity("results")
    outputs_dir: Folder = not_identity("outputs")
    origin: dict[str, str] = derived(dict)  # train.* value -> where it came from
    overrides: tuple[str, ...] = derived(tuple)  # the command line, for reading

    @classmethod
    def from_hydra(cls, cfg: Any) -> RunConfig:
        """Build a checked run from a composed Hydra configuration.

        Raises:
            ConfigError: an unknown key, a wrong type, a value out of range or a combination that cannot run.
        """
        return run_from_hydra(cfg)

    @property
    def head_in_force(self) -> str:
        """The classification head: the one asked for, else the method's, else the model's."""
        return self.head or self.method.head or self.model.head

    @property
    def cache_dir(self) -> Path:
        """Scratch folder for tokens, scores and hidden-state caches."""
        return Path(self.outputs_dir) / "cache"

    def identity(self) -> dict[str, Any]:
        """Return what can change a number: nested, sorted, without any value at its neutral default."""
        return identity_of_run(self)

    @cached_property  # thousands of cells ask, several times each
    def config_sha256(self) -> str:
        """Hash of the identity; table cells match records on it alone."""
        return sha256_of(self.identity())

    @property
    def run_id(self) -> str:
        """`<model>-<task>-<method>[-k<k>]-s<seed>-<hash8>`; the hash covers identity, data and weights."""
        return run_id(self)


def base_tree() -> dict[str, Any]:
    """Return the schema's defaults as nested plain values: what every composition starts from."""
    tree: dict[str, Any] = json.loads(_defaults())
    return tree


@cache  # thousands of cells begin with it
def _defaults() -> str:
    run = RunConfig(ModelSpec(), TaskSpec(), MethodSpec(), ProtocolSpec(), TrainSpec())
    tree = dataclasses.asdict(run)
    del tree["method"]["options"]
    for one in dataclasses.fields(RunConfig):
        if one.metadata.get("derived"):
            del tree[one.name]
    return json.dumps(tree)


@cache
def path_keys(cls: Any = RunConfig, where: str = "") -> tuple[str, ...]:
    """List the keys whose value is a file or folder of this machine, dotted."""
    found: list[str] = []
    for name, annotation in hints_of(cls).items():
        in_union = get_origin(annotation) in (Union, types.UnionType)
        options = get_args(annotation) if in_union else (annotation,)
        if any(isinstance(mark, IsPath) for option in options for mark in get_args(option)):
            found.append(where + name)
        for group in options:
            if isinstance(group, type) and dataclasses.is_dataclass(group):
                found += path_keys(group, f"{where}{name}.")
    return tuple(found)


def run_from_hydra(cfg: Any, on_this_machine: bool = True) -> RunConfig:
    """Build, resolve and check a run from a composed configuration (a `DictConfig` or a plain mapping).

    Args:
        on_this_machine: also check that data and weights are where the configuration says; a report asks
            for runs that other machines made.
    """
    tree = dict(_container(cfg))
    tree.pop("hydra", None)
    recipe = tree.pop("recipe", None)
    tree.pop("study", None)
    if "table" in tree:
        raise ConfigError("table=<name> is for sweeps: python run.py -m hydra/sweeper=table table=<name>.")
    if (k := tree.pop("k", None)) is not None:
        raise ConfigError(f"k={k} is for landscapes (-m hydra/sweeper=landscape); here say method.k={k}.")
    method = tree.pop("method", None)
    for group, example in _EXAMPLES.items():
        chosen = method if group == "method" else tree.get(group)
        if not isinstance(chosen, Mapping) or chosen.get("name") in (None, ""):
            raise ConfigError(f"No {group} given: say {group}=<name>, for example {group}={example}.")
    assert isinstance(method, Mapping)
    overrides = tuple(tree.pop("overrides", ())) if _is_plain(cfg) else tuple(_command_line())
    declared = _declared_method(method, () if _is_plain(cfg) else _config_dirs())
    run: RunConfig = build_dataclass(RunConfig, {**tree, "method": {}}, "")
    spec = _without_inert_k(build_method_spec(method, declared), declared)
    run = dataclasses.replace(run, method=spec, overrides=overrides)
    run = resolve_training(_with_head(_with_own_columns(run)), build_recipe(recipe, run.grid))
    check_run(run, on_this_machine)
    return run


def _with_own_columns(run: RunConfig) -> RunConfig:
    """Let `own.*` say what a task of one's own reads, and of what kind it is."""
    if run.task.source != "own":
        return run
    own, task = run.own, run.task
    task = dataclasses.replace(task, columns=(own.text, own.text2) if own.text2 else (own.text,))
    if own.regression:
        metrics = METRICS_OF_KIND["regression"]
        task = dataclasses.replace(task, kind="regression", metric=metrics[0], metrics=metrics)
    return dataclasses.replace(run, task=task)


def _with_head(run: RunConfig) -> RunConfig:
    """Give data of one's own the standard head; a head that would be in force anyway is not asked for."""
    otherwise = run.method.head or run.model.head
    own = run.task.source == "own" and run.method.head is None
    asked = run.head or ("standard" if own else otherwise)
    return dataclasses.replace(run, head=None if asked == otherwise else asked)


def _without_inert_k(method: MethodSpec, declared: Mapping[str, Any] | None) -> MethodSpec:
    """Drop a k that nothing reads, so that a sweep over methods with one k asks for each run once."""
    reads_k = method.selector is not None or declared is None or declared.get("k") is not None
    if method.k is None or reads_k:
        return method
    log.warning(
        "method.k=%d has no effect: method=%s selects no layers; it is left out.", method.k, method.name
    )
    return dataclasses.replace(method, k=None)


_EXAMPLES = {"model": "bert", "task": "sst2", "method": "low_k"}


def _is_plain(cfg: Any) -> bool:
    return isinstance(cfg, Mapping) and not hasattr(
        cfg, "_metadata"
    )  # a DictConfig is a mapping with metadata


def _container(cfg: Any) -> Mapping[str, Any]:
    if _is_plain(cfg):
        plain: Mapping[str, Any] = cfg
        return plain
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        tree = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        place = f"{error.full_key}: " if getattr(error, "full_key", None) else ""
        raise ConfigError(f"{place}{str(error).splitlines()[0]}") from error
    assert isinstance(tree, Mapping)
    return {str(key): value for key, value in tree.items()}


def _declared_method(method: Mapping[str, Any], folders: Sequence[Path]) -> Mapping[str, Any] | None:
    """Return the content of a method's own YAML: in configs/, else in the folders given, else None."""
    name = convert(Name, method["name"], "method.name")
    found = (group_file("method", name, folder) for folder in (None, *folders))
    return next((content for content in found if content is not None), None)


def _config_dirs() -> list[Path]:
    """Return the folders of configurations of the running Hydra job (`--config-dir`), none outside one."""
    from hydra.core.hydra_config import HydraConfig

    sources = HydraConfig.get().runtime.config_sources if HydraConfig.initialized() else []
    return [Path(source.path) for source in sources if source.schema == "file"]


def _command_line() -> list[str]:
    """Return the overrides of the running Hydra job, none outside one."""
    from hydra.core.hydra_config import HydraConfig

    return list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []
