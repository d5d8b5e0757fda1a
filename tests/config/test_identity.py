"""Identity: what can change a number is in it, nothing else is; a new option leaves old identities alone."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest

from layertune.config import (
    MethodSpec,
    ModelSpec,
    ProtocolSpec,
    RunConfig,
    ScoringSpec,
    TaskSpec,
    TrainSpec,
)
from layertune.config.compose import compose_tree
from layertune.config.identity import identity_of, sha256_of
from layertune.config.run import run_from_hydra
from layertune.config.schema import always_identity

Build = Callable[..., RunConfig]
GOLDEN = Path(__file__).parents[1] / "golden" / "identities.json"

REQUESTS = (
    "model=bert task=sst2 method=low_k",
    "model=bert task=sst2 method=low_k seed=42",
    "model=bert task=sst2 method=full seed=100",
    "model=roberta task=cola method=block_high method.k=5 train.learning_rate=1e-5 train.epochs=3",
    "model=gte_small task=trec method=io_low_k protocol=quick",
    "model=bert task=sst2_imdb method=high_k",
    "model=bert task=rte method=random_k model.head=pooled protocol=timing",
    "model=gte_small task=cr method=variance_k stage=score scoring.tokens=representative scoring.examples=99",
    "model=gpt2 task=sst5 method=euclidean_low_k method.k=6 train.precision=bf16",
    "model=tiny_bert task=demo method=head_only protocol=smoke train.schedule=cosine train.warmup_ratio=0.1",
    "model=gpt2 task=e2e method=low_k",
    "model=smollm2 task=e2e method=lora protocol=study grid=fair task.format=lora",
)

# Every field that is not part of the identity. A field added here is a decision: it changes no number.
NOT_IDENTITY = {
    RunConfig: "grid tracking checkpoint force data_dir results_dir outputs_dir origin overrides "
    "eval_generation own save save_epoch merge",
    TrainSpec: "version micro_batch eval_batch_size deterministic activation_checkpointing device "
    "num_threads graphs",
    ModelSpec: "title version family source revision path num_layers max_positions layers attention "
    "precisions random_config pooler sizes",
    TaskSpec: "title version data kind source hub columns labels metric best_by metrics counts label_counts "
    "label_range meanings mean_tokens score_examples foreign train",
    MethodSpec: "title version kind grids grid_rates task_rates head_rates recipe_of train",
    ProtocolSpec: "title tracked train",
    ScoringSpec: "batch_size",
}


def _other(hint: Any, value: Any) -> Any:
    """Return a value of the annotated type that differs from `value`."""
    if get_origin(hint) is Literal:
        return next(choice for choice in get_args(hint) if choice != value)
    if get_origin(hint) in (Union, type(int | None)):
        return _other(next(arg for arg in get_args(hint) if arg is not type(None)), value)
    if hint is bool:
        return not value
    simple = {int: 77, float: 0.777, str: "another"}
    if hint in simple:
        return simple[hint]
    return {"a": 1} if get_origin(hint) is dict else ("a",)


def _changed(run: RunConfig, *, in_identity: bool) -> Iterator[tuple[str, RunConfig]]:
    """Yield the run once per field of its kind (in the identity, or not), with that field changed."""
    for group in ("", "model", "task", "method", "protocol", "train", "scoring"):
        owner = getattr(run, group) if group else run
        left_out = NOT_IDENTITY[type(owner)].split()
        for field in dataclasses.fields(owner):
            value = getattr(owner, field.name)
            if dataclasses.is_dataclass(value) or (field.name in left_out) == in_identity:
                continue
            if run.task.kind != "generation" and field.name in ("eval_meanings", "dev_meanings"):
                continue  # nothing reads them
            hint = get_type_hints(type(owner))[field.name]
            changed = dataclasses.replace(owner, **{field.name: _other(hint, value)})
            name = f"{group}.{field.name}".lstrip(".")
            yield name, dataclasses.replace(run, **{group: changed}) if group else changed


def test_the_identity_of_a_run_in_full(build: Build) -> None:
    # The built-in values of §4.4 stand in it although nobody typed them: they are resolved, not neutral.
    assert build({"seed": 42, "protocol.train_examples": 100, "method.k": 2}).identity() == {
        "method": {"k": 2, "name": "low_k", "scorer": "cosine", "selector": "lowest"},
        "model": {"name": "tiny_bert"},
        "protocol": {"name": "paper", "train_examples": 100},
        "seed": 42,
        "task": {"name": "demo"},
        "train": {
            "batch_size": 32,
            "betas": [0.9, 0.99],
            "epochs": 5,
            "label_smoothing": 0.0,
            "learning_rate": 2e-5,
            "precision": "fp32",
            "schedule": "linear",
            "warmup_ratio": 0.0,
            "weight_decay": 0.01,
        },
    }


def test_a_value_typed_at_its_neutral_default_stays_out(build: Build) -> None:
    plain = build()
    typed = build(
        {
            "train.mode": "published",
            "model.head": "concat",
            "model.head_dropout": 0.3,
            "task.max_length": 256,
            "task.segment_ids": "zeros",
            "protocol.evaluate": True,
            "scoring.examples": "all",
            "train.epochs": 5,
            "stage": "run",
            "seed": 0,
        }
    )
    assert typed.identity() == plain.identity()
    assert typed.run_id == plain.run_id
    assert plain.identity()["seed"] == 0  # a reader expects to find it, default or not


def test_an_option_that_the_scorer_does_not_read_is_left_out(build: Build) -> None:
    plain = build()
    inert = dataclasses.replace(plain, scoring=dataclasses.replace(plain.scoring, tokens="all"))
    assert inert.identity() == plain.identity()


def test_only_generation_counts_meaning_representations(build: Build) -> None:
    sizes = {"protocol.eval_meanings": 8, "protocol.dev_meanings": 4}
    assert build(sizes).identity() == build().identity()
    with_kind = {
        "task.kind": "generation",
        "task.metric": "bleu",
        "task.metrics": [],
        "model.family": "decoder",
    }
    assert build({**with_kind, **sizes}).identity()["protocol"] == {
        "dev_meanings": 4,
        "eval_meanings": 8,
        "name": "paper",
    }
    rows = {**with_kind, "protocol.eval_examples": 100}
    assert build(rows).identity() == build(with_kind).identity()


def test_what_layers_are_scored_on_counts_only_where_layers_are_scored(build: Build) -> None:
    scored_on = {"scoring.examples": 50, "task.score_text": "prompt"}
    without = {"method.scorer": None}
    assert build({**without, **scored_on}).identity() == build(without).identity()
    assert build(scored_on).identity()["scoring"] == {"examples": 50}
    weights = {"method.scorer": "spectrum"}
    assert build({**weights, **scored_on}).identity() == build(weights).identity()


def test_everything_that_changes_numbers_changes_the_identity(build: Build) -> None:
    run = build()
    run = dataclasses.replace(run, method=dataclasses.replace(run.method, scorer="io_cosine"))  # reads tokens
    seen = {run.config_sha256: "the run itself"}
    names = []
    for name, other in _changed(run, in_identity=True):
        assert other.config_sha256 not in seen, f"{name} is taken for {seen[other.config_sha256]}"
        seen[other.config_sha256] = name
        names.append(name)
    for expected in (
        "seed",
        "stage",
        "model.head",
        "task.max_length",
        "method.k",
        "protocol.holdout",
        "train.mode",
    ):
        assert expected in names
    assert len(names) > 35


def test_paths_devices_titles_and_tracking_do_not(build: Build) -> None:
    run = build()
    names = []
    for name, other in _changed(run, in_identity=False):
        assert other.config_sha256 == run.config_sha256, f"{name} is part of the identity"
        names.append(name)
    for expected in (
        "force",
        "results_dir",
        "train.device",
        "train.micro_batch",
        "model.path",
        "method.title",
    ):
        assert expected in names
    for changes in (
        {"tracking.mode": "online", "tracking.project": "p"},
        {"checkpoint.every_steps": 10},
        {"train.micro_batch": 8, "train.device": "cpu", "train.num_threads": 1},
    ):
        assert build(changes).run_id == run.run_id


@pytest.mark.parametrize("cls", list(NOT_IDENTITY), ids=lambda cls: cls.__name__)
def test_the_fields_left_out_of_the_identity_are_a_decision(cls: type) -> None:
    left_out = [field.name for field in dataclasses.fields(cls) if field.metadata.get("identity") is False]
    assert sorted(left_out) == sorted(NOT_IDENTITY[cls].split())


def test_options_of_a_method_are_in_the_identity_unless_null_or_false(build: Build) -> None:
    run = build()

    def with_options(**options: Any) -> RunConfig:
        return dataclasses.replace(run, method=dataclasses.replace(run.method, options=options))

    assert with_options(rank=None, bias=False).config_sha256 == run.config_sha256
    method = with_options(rank=8, bias=True, targets=("query", "value"), alpha=None).identity()["method"]
    assert method == {**run.identity()["method"], "rank": 8, "bias": True, "targets": ["query", "value"]}
    for zero in (0, 0.0):  # equal to false in Python, and yet a number
        assert with_options(rank=zero).config_sha256 != run.config_sha256


def test_an_option_added_later_at_its_default_leaves_old_identities_alone(build: Build) -> None:
    @dataclass(frozen=True)
    class LaterTrain(TrainSpec):
        average: float = 0.0

    @dataclass(frozen=True)
    class LaterMethod(MethodSpec):
        tags: tuple[str, ...] = ()

    @dataclass(frozen=True)
    class LaterRun(RunConfig):
        rounds: int = 1

    run = build()

    def later(average: float = 0.0, tags: tuple[str, ...] = (), rounds: int = 1) -> RunConfig:
        values = {field.name: getattr(run, field.name) for field in dataclasses.fields(run)}
        values["train"] = LaterTrain(**vars(run.train), average=average)
        values["method"] = LaterMethod(**vars(run.method), tags=tags)
        return LaterRun(**values, rounds=rounds)

    assert later().identity() == run.identity()
    assert later().run_id == run.run_id
    hashes = {one.config_sha256 for one in (run, later(average=0.9), later(tags=("a",)), later(rounds=2))}
    assert len(hashes) == 4


def test_a_field_marked_always_is_found_at_its_default() -> None:
    @dataclass(frozen=True)
    class Spec:
        name: str = always_identity("x")
        size: int = 3

    assert identity_of(Spec()) == {"name": "x"}
    assert identity_of(Spec(size=4)) == {"name": "x", "size": 4}


def test_the_hash_does_not_depend_on_the_order_of_keys_or_options(build: Build) -> None:
    assert sha256_of({"b": [1, 2], "a": None}) == sha256_of({"a": None, "b": [1, 2]})
    # echo -n '{"a":null,"b":[1,2]}' | sha256sum
    expected = "ee743f2fa2570a1b5e3270cc405d0456b983ba03ab9cb27552fc6c1a720183c7"
    assert sha256_of({"b": [1, 2], "a": None}) == expected
    run = build()
    one = dataclasses.replace(run, method=dataclasses.replace(run.method, options={"a": 1, "b": 2}))
    two = dataclasses.replace(run, method=dataclasses.replace(run.method, options={"b": 2, "a": 1}))
    assert one.config_sha256 == two.config_sha256


# -- the golden identities ----------------------------------------------------------------------------------


def golden_identities() -> dict[str, Any]:
    """Return what tests/golden/identities.json holds; `python tests/config/test_identity.py` writes it.

    Recipes are left out: a rate found by a search makes another run, and no other rule.
    """
    runs = {
        request: run_from_hydra({**compose_tree(request.split()), "recipe": None}) for request in REQUESTS
    }
    return {
        request: {"config_sha256": run.config_sha256, "identity": run.identity()}
        for request, run in runs.items()
    }


def test_twelve_runs_have_their_golden_identities() -> None:
    # Records are found by these hashes: what changes here makes the records of such runs unfindable. Raise a
    # version where numbers changed; write the file anew only where no record can be lost.
    golden = json.loads(GOLDEN.read_text())
    assert len(golden) == 12
    assert golden_identities() == golden
    assert all(entry["config_sha256"] == sha256_of(entry["identity"]) for entry in golden.values())


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(golden_identities(), indent=1) + "\n")


def test_the_head_is_part_of_the_identity_where_it_is_another_than_the_run_s_own(build: Build) -> None:
    bare = build()
    assert bare.head_in_force == "concat" and "head" not in bare.identity()
    assert build({"head": "concat"}).config_sha256 == bare.config_sha256
    standard = build({"head": "standard"})
    assert standard.identity()["head"] == "standard" and standard.head_in_force == "standard"
    pooled = {"model.head": "pooled"}
    assert build(pooled | {"head": "pooled"}).config_sha256 == build(pooled).config_sha256
    assert build(pooled | {"head": "concat"}).identity()["head"] == "concat"


def test_data_of_one_s_own_take_the_standard_head_unless_method_or_person_say_another(
    build: Build, tmp_path: Path
) -> None:
    (tmp_path / "a.csv").write_text("text,label\n")
    own = {"task": {"name": "own", "source": "own"}, "own.train": str(tmp_path / "a.csv")}
    assert build(own).head_in_force == "standard"
    assert build(own | {"head": "concat"}).head_in_force == "concat"
    assert build(own | {"method.head": "pooled"}).head_in_force == "pooled"
    assert build(own | {"method.head": "pooled", "head": "standard"}).head_in_force == "standard"


def test_where_a_model_is_kept_changes_no_identity(build: Build, tmp_path: Path) -> None:
    asked = {"save": str(tmp_path / "model"), "save_epoch": "best"}
    assert build(asked).run_id == build().run_id
