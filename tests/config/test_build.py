"""The typed merge: unknown keys and wrong types end as one sentence that says what is allowed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest

from layertune.config import RunConfig
from layertune.config.build import convert, describe
from layertune.config.run import run_from_hydra
from layertune.errors import ConfigError

Build = Callable[..., RunConfig]


def test_a_run_is_typed_frozen_and_complete(build: Build) -> None:
    run = build({"train.betas": [0.9, 0.95], "seed": 42})
    assert (run.model.num_layers, run.method.k, run.seed) == (4, 3, 42)
    assert run.task.labels == ("negative", "positive")  # lists become tuples
    assert run.train.betas == (0.9, 0.95)
    assert run.tracking.mode == "offline" and run.scoring.examples == "all"
    with pytest.raises(dataclasses.FrozenInstanceError):
        run.seed = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("key", "near", "allowed"),
    [
        ("sed", "seed", "seed"),
        ("model.num_layer", "num_layers", "num_layers"),
        ("task.max_lenght", "max_length", "max_length"),
        ("task.train.epoch", "epochs", "weight_decay"),
        ("task.hub.ids", "id", "revision"),
        ("task.foreign.imdb.titel", "title", "eval_split"),
        ("protocol.train_example", "train_examples", "eval_examples"),
        ("train.learning_rat", "learning_rate", "epochs"),
        ("scoring.example", "examples", "tokens"),
        ("tracking.entitty", "entity", "project"),
        ("checkpoint.every_step", "every_steps", "every_steps"),
    ],
)
def test_an_unknown_key_names_the_allowed_ones_and_the_nearest(
    build: Build, key: str, near: str, allowed: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        build({key: 1})
    message = str(caught.value)
    assert message.startswith(f"{key} does not exist; allowed here: ")
    assert message.endswith(f"Did you mean '{near}'?")
    assert allowed in message


def test_a_key_like_none_of_the_allowed_ones_gets_no_guess(build: Build) -> None:
    with pytest.raises(ConfigError) as caught:
        build({"tracking.zzzz": 1})
    assert str(caught.value) == "tracking.zzzz does not exist; allowed here: entity, mode, project."


@pytest.mark.parametrize(
    ("key", "value", "takes"),
    [
        ("seed", "42", "an integer"),
        ("seed", 4.0, "an integer"),
        ("seed", True, "an integer"),
        ("seed", None, "an integer"),
        ("train.epochs", "three", "an integer"),
        ("train.learning_rate", "fast", "a number"),
        ("train.learning_rate", True, "a number"),
        ("train.deterministic", 1, "true or false"),
        ("train.deterministic", "yes", "true or false"),
        ("train.schedule", "cosne", r"linear \| cosine \| constant"),
        ("train.schedule", 1, r"linear \| cosine \| constant"),
        ("model.title", 7, "text"),
        ("model.path", 7, "text"),
        ("task.labels", "positive", "a list of text"),
        ("task.counts", [1, 2], "a mapping"),
        ("scoring.examples", "some", r"an integer .* or all"),
        ("scoring.examples", 1.5, r"an integer .* or all"),
        ("model", "bert", "No model given"),
        ("train", None, "TrainSpec"),
    ],
)
def test_a_wrong_type_says_what_is_allowed(build: Build, key: str, value: Any, takes: str) -> None:
    with pytest.raises(ConfigError, match=takes):
        build({key: value})


def test_the_element_at_fault_is_named(build: Build) -> None:
    with pytest.raises(ConfigError, match=r"train\.betas\[1\]='b' .*number"):
        build({"train.betas": [0.9, "b"]})
    with pytest.raises(ConfigError, match=r"task\.counts\.train='many'"):
        build({"task.counts": {"train": "many"}})


def test_an_integer_is_taken_where_a_number_is_asked_and_becomes_one(build: Build) -> None:
    decay = build({"train.clip_norm": 1}).train.clip_norm
    assert decay == 1.0 and type(decay) is float
    assert build({"train.clip_norm": 1}).config_sha256 == build({"train.clip_norm": 1.0}).config_sha256


def test_null_is_taken_only_where_it_means_something(build: Build) -> None:
    assert build({"model.path": None}).model.path is None
    with pytest.raises(ConfigError, match=r"model\.num_layers=None"):
        build({"model.num_layers": None})


def test_describe_says_types_in_words() -> None:
    assert describe(int | None) == "an integer or null"
    assert describe(tuple[float, ...]) == "a list of a number"
    assert describe(Literal["a", "b"]) == "a | b"
    assert describe(dict[str, int]) == "a mapping"


def test_convert_freezes_what_has_no_type() -> None:
    assert convert(dict[str, Any], {"a": [1, [2]]}, "x") == {"a": (1, (2,))}


@pytest.mark.parametrize("group", ["model", "task", "method"])
def test_a_missing_group_says_how_to_give_it(tree: dict[str, Any], group: str) -> None:
    del tree[group]
    with pytest.raises(
        ConfigError, match=rf"No {group} given: say {group}=<name>, for example {group}=\w+\."
    ):
        run_from_hydra(tree)


# -- from Hydra ---------------------------------------------------------------------------------------------


def test_a_value_that_is_still_open_is_refused_by_its_key(tree: dict[str, Any]) -> None:
    from omegaconf import OmegaConf

    tree["model"]["name"] = "???"
    with pytest.raises(ConfigError, match=r"^model\.name: .*mandatory"):
        RunConfig.from_hydra(OmegaConf.create(tree))


def test_an_interpolation_that_leads_nowhere_is_refused(tree: dict[str, Any]) -> None:
    from omegaconf import OmegaConf

    tree["protocol"]["train_examples"] = "${study.rows}"
    with pytest.raises(ConfigError, match=r"^protocol\.train_examples: .*study\.rows"):
        RunConfig.from_hydra(OmegaConf.create(tree))


def test_a_composed_configuration_and_a_plain_mapping_make_the_same_run(tree: dict[str, Any]) -> None:
    from omegaconf import OmegaConf

    assert RunConfig.from_hydra(OmegaConf.create(tree)) == RunConfig.from_hydra(tree)


def test_the_command_line_of_a_hydra_job_is_kept_for_reading(
    tree: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    given = ["model=tiny_bert", "method.k=3"]
    job = OmegaConf.create({"overrides": {"task": given, "hydra": []}, "runtime": {"config_sources": []}})
    monkeypatch.setattr(HydraConfig, "initialized", staticmethod(lambda: True))
    monkeypatch.setattr(HydraConfig, "get", staticmethod(lambda: job))
    assert RunConfig.from_hydra(OmegaConf.create(tree)).overrides == tuple(given)
    assert (
        RunConfig.from_hydra(tree).overrides == ()
    )  # a run built inside a job did not come from its command line
    assert RunConfig.from_hydra({**tree, "overrides": ["seed=1"]}).overrides == ("seed=1",)


def test_a_method_s_yaml_outside_configs_says_which_options_exist(
    tree: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    (tmp_path / "method").mkdir()
    (tmp_path / "method" / "mine.yaml").write_text("name: mine\nkind: my_package.Mine\nterms: 3\n")
    sources = [{"path": "hydra.conf", "schema": "pkg"}, {"path": str(tmp_path), "schema": "file"}]
    job = OmegaConf.create({"overrides": {"task": []}, "runtime": {"config_sources": sources}})
    monkeypatch.setattr(HydraConfig, "initialized", staticmethod(lambda: True))
    monkeypatch.setattr(HydraConfig, "get", staticmethod(lambda: job))
    tree["method"] = {"name": "mine", "kind": "my_package.Mine", "terms": 4}
    assert RunConfig.from_hydra(OmegaConf.create(tree)).method.options == {"terms": 4}
    tree["method"]["term"] = 5
    with pytest.raises(ConfigError, match=r"method\.term .*'terms'"):
        RunConfig.from_hydra(OmegaConf.create(tree))


def test_a_recipe_with_an_unknown_key_names_its_place(build: Build) -> None:
    with pytest.raises(ConfigError, match=r"recipe\.demo\.low_k\.rate"):
        build({"recipe": {"demo": {"low_k": {"rate": 1e-5}}}})
