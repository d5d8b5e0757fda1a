"""Training values: command line > recipe > protocol > method > task > built-in, each with its origin."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from layertune.config import RunConfig, TrainDefaults
from layertune.config.rates import BUILT_IN, resolve_training
from layertune.config.run import run_from_hydra

Build = Callable[..., RunConfig]

LEVELS = ["command line", "recipe", "protocol paper", "method low_k", "task demo"]  # highest first

# One value per level, all different, in the order of LEVELS.
VALUES: dict[str, list[Any]] = {
    "epochs": [1, 2, 3, 4, 6],
    "batch_size": [1, 2, 4, 8, 16],
    "learning_rate": [1e-3, 2e-3, 3e-3, 4e-3, 5e-3],
    "head_learning_rate": [0.1, 0.2, 0.3, 0.4, 0.5],
    "betas": [[0.1, 0.9], [0.2, 0.9], [0.3, 0.9], [0.4, 0.9], [0.5, 0.9]],
    "weight_decay": [0.1, 0.2, 0.3, 0.4, 0.5],
    "schedule": ["cosine", "constant", "linear", "cosine", "constant"],
    "warmup_ratio": [0.1, 0.2, 0.3, 0.4, 0.5],
    "clip_norm": [1.0, 2.0, 3.0, 4.0, 5.0],
    "label_smoothing": [0.1, 0.2, 0.3, 0.4, 0.5],
    "precision": ["bf16", "fp32", "bf16", "fp32", "bf16"],
}


def _with(tree: dict[str, Any], level: int, values: dict[str, Any]) -> None:
    if level == 0:
        tree["train"] |= values
    elif level == 1:
        tree["recipe"] = {"demo": {"low_k": values}}
    else:
        tree[("protocol", "method", "task")[level - 2]]["train"] = values


@pytest.mark.parametrize("highest", range(len(LEVELS)))
def test_the_highest_level_that_speaks_decides_and_is_named(tree: dict[str, Any], highest: int) -> None:
    for level in range(highest, len(LEVELS)):
        _with(tree, level, {name: values[level] for name, values in VALUES.items()})
    run = run_from_hydra(tree)
    for name, values in VALUES.items():
        expected = tuple(values[highest]) if name == "betas" else values[highest]
        assert getattr(run.train, name) == expected, name
    assert run.origin == dict.fromkeys(VALUES, LEVELS[highest])


def test_values_of_several_levels_mix(build: Build) -> None:
    run = build(
        {
            "train.epochs": 1,
            "recipe": {"demo": {"low_k": {"learning_rate": 1e-4, "records": ["a", "b"]}}},
            "protocol.train": {"batch_size": 16, "epochs": 2},
            "method.train": {"weight_decay": 0.0},
            "task.train": {"schedule": "cosine", "weight_decay": 0.3},
        }
    )
    train = run.train
    assert (train.epochs, train.learning_rate, train.batch_size) == (1, 1e-4, 16)
    assert (train.weight_decay, train.schedule, train.betas) == (0.0, "cosine", (0.9, 0.99))  # 0.0 is a value
    assert run.origin == {
        "epochs": "command line",
        "learning_rate": "recipe",
        "batch_size": "protocol paper",
        "weight_decay": "method low_k",
        "schedule": "task demo",
        "betas": "built-in",
        "warmup_ratio": "built-in",
        "label_smoothing": "built-in",
        "precision": "built-in",
    }


def test_without_any_level_the_values_are_the_paper_s(build: Build) -> None:
    # §4.4: AdamW, betas (0.9, 0.99), weight decay 0.01; 5 epochs, batch 32 and 2e-5 lie within its grids.
    train = build().train
    assert (train.epochs, train.batch_size, train.learning_rate, train.head_learning_rate) == (
        5,
        32,
        2e-5,
        None,
    )
    assert (train.betas, train.weight_decay, train.clip_norm) == ((0.9, 0.99), 0.01, None)
    assert (train.schedule, train.warmup_ratio, train.label_smoothing) == ("linear", 0.0, 0.0)
    assert train.precision == "fp32"
    assert TrainDefaults(**{name: getattr(train, name) for name in VALUES}) == BUILT_IN


def test_a_value_nobody_gives_has_no_origin(build: Build) -> None:
    assert not {"clip_norm", "head_learning_rate"} & set(build().origin)


@pytest.mark.parametrize(
    "recipe",
    [{"sst2": {"low_k": {"epochs": 9}}}, {"demo": {"high_k": {"epochs": 9}}}, {}, None],
    ids=["another task", "another method", "empty", "none"],
)
def test_a_recipe_speaks_for_its_task_and_method_alone(build: Build, recipe: Any) -> None:
    run = build({"recipe": recipe})
    assert (run.train.epochs, run.origin["epochs"]) == (5, "built-in")


def test_a_task_proposes_how_many_rows_are_scored(build: Build) -> None:
    proposed = {"task.score_examples": 400}
    assert build().scoring.examples == "all"
    assert build(proposed).scoring.examples == 400
    assert build({**proposed, "scoring.examples": 7}).scoring.examples == 7
    every = build({**proposed, "scoring.examples": "all"})
    assert every.scoring.examples == "all" and "scoring" not in every.identity()


def test_a_method_s_option_may_be_listed_by_task(build: Build) -> None:
    def share(given: float | None = None, **listed: float) -> Any:
        run = build()
        options = {"share": given, "share_by_task": {"other": 0.1, **listed}}
        run = replace(run, method=replace(run.method, options=options))
        return resolve_training(run, {}).method.options

    assert share(demo=0.2, default=0.3) == {"share": 0.2}
    assert share(default=0.3) == {"share": 0.3}
    assert share() == {"share": None}
    assert share(given=0.9, demo=0.2) == {"share": 0.9}  # and the list is gone


def test_the_recipe_leaves_no_trace_but_its_values(build: Build) -> None:
    found = build({"recipe": {"demo": {"low_k": {"epochs": 3}}}})
    typed = build({"train.epochs": 3})
    assert (found.origin["epochs"], typed.origin["epochs"]) == ("recipe", "command line")
    assert found.config_sha256 == typed.config_sha256  # where a value came from changes no number


def test_the_rate_of_the_grid_comes_before_the_method_s_plain_one(build: Build) -> None:
    method = {"method.grid_rates": {"paper": 5e-5, "fair": 1e-4}, "method.train": {"learning_rate": 9e-5}}
    paper, fair = build(method), build({**method, "grid": "fair"})
    assert (paper.train.learning_rate, paper.origin["learning_rate"]) == (5e-5, "method low_k")
    assert fair.train.learning_rate == 1e-4
    assert paper.config_sha256 != fair.config_sha256
    only_fair = build({**method, "method.grid_rates": {"fair": 1e-4}})
    assert only_fair.train.learning_rate == 9e-5
    assert build({**method, "train.learning_rate": 7e-5}).train.learning_rate == 7e-5


def test_the_head_has_its_own_rate_only_where_it_differs(build: Build) -> None:
    own = build({"method.head_rates": {"paper": 1e-3}})
    assert own.train.head_learning_rate == 1e-3
    assert own.origin["head_learning_rate"] == "method low_k"
    same = build({"method.head_rates": {"paper": 2e-5}})
    assert same.train.head_learning_rate is None
    assert same.config_sha256 == build().config_sha256


def test_two_grids_with_the_same_rates_are_one_run(build: Build) -> None:
    head = {"train.head_learning_rate": 2e-5}
    assert build({"grid": "fair", **head}).run_id == build({"grid": "paper", **head}).run_id


def test_what_the_train_file_sets_is_not_said_to_be_typed(build: Build) -> None:
    # The file said bf16 and 8 epochs (composition leaves both under `train`); the epochs were then typed.
    overrides = ["model=tiny_bert", "train=fast", "train.epochs=3", "++train.clip_norm=1.0"]
    run = build(
        {
            "train": {"mode": "fast", "precision": "bf16", "epochs": 3, "clip_norm": 1.0},
            "protocol.train": {"precision": "fp32"},
            "overrides": overrides,
        }
    )
    assert run.train.precision == "bf16"  # a mode that was asked for comes before what protocols propose
    assert run.origin["precision"] == "train fast"
    assert run.origin["epochs"] == run.origin["clip_norm"] == "command line"
    default = build({"train": {"precision": "bf16"}, "overrides": ["model=tiny_bert"]})
    assert default.origin["precision"] == "train published"


def test_resolving_changes_nothing_but_the_open_values(tree: dict[str, Any]) -> None:
    tree["train"] = {"micro_batch": 8, "eval_batch_size": 7, "deterministic": True, "device": "cpu"}
    before = copy.deepcopy(tree)
    train = run_from_hydra(tree).train
    assert (train.micro_batch, train.eval_batch_size, train.deterministic, train.device) == (
        8,
        7,
        True,
        "cpu",
    )
    assert tree == before  # the caller's mapping is not written to


@pytest.mark.parametrize(
    ("has", "precisions", "taken"),
    [(True, ["fp32", "bf16"], "bf16"), (False, ["fp32", "bf16"], "fp32"), (True, ["fp32"], "fp32")],
)
def test_auto_takes_bf16_where_processor_and_model_have_it_and_is_named_by_what_it_took(
    build: Build, monkeypatch: pytest.MonkeyPatch, has: bool, precisions: list[str], taken: str
) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    model = {"model.precisions": precisions}
    run = build({**model, "train.precision": "auto", "train.device": "cpu"})
    assert run.train.precision == taken
    assert run.origin["precision"].startswith("auto: ")
    named = build({**model, "train.precision": taken, "train.device": "cpu"})
    assert run.config_sha256 == named.config_sha256
