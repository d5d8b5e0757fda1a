"""Every file in configs/ composes into a run, and an override that is wrong ends as one sentence."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra.core.global_hydra import GlobalHydra

from layertune.config import MethodSpec, RunConfig
from layertune.config import checks as checks_module
from layertune.config.compose import (
    compose_run,
    compose_tree,
    group_choice,
    plain_run,
    plain_tree,
)
from layertune.config.groups import (
    CONFIG_DIR,
    group_file,
    group_names,
    looking_into,
)
from layertune.config.run import run_from_hydra
from layertune.errors import ConfigError

Tree = dict[str, Any]

NAMED = ("model", "task", "method", "protocol")  # groups whose files carry a name and a title
GROUPS = (*NAMED, "train", "tracking")
FILES = [(group, name) for group in GROUPS for name in group_names(group)]


def _groups_of_every_file() -> Iterator[dict[str, str]]:
    """Yield choices of all groups at once, until every file of every group was chosen."""
    columns = [group_names(group) for group in GROUPS]
    for row in range(max(map(len, columns))):
        yield {group: names[row % len(names)] for group, names in zip(GROUPS, columns, strict=True)}


@pytest.fixture(scope="module")
def every_file() -> dict[tuple[str, str], Tree]:
    """Return what Hydra composes for each file; one composition serves a file of every group."""
    found: dict[tuple[str, str], Tree] = {}
    for choices in _groups_of_every_file():
        tree = compose_tree([f"{group}={name}" for group, name in choices.items()])
        found |= {(group, name): tree[group] for group, name in choices.items()}
    return found


@pytest.fixture
def _weights_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the weights of packages that may not be installed out of the question."""
    monkeypatch.setattr(checks_module, "weights_folder", lambda model: None)


SWEEPS = [("sweep", name) for name in group_names("sweep")]


@pytest.mark.parametrize(("group", "name"), [*FILES, *SWEEPS], ids=lambda value: str(value))
def test_a_file_opens_with_a_comment_that_gives_its_command(group: str, name: str) -> None:
    lines = (CONFIG_DIR / group / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    comment = list(itertools.takewhile(lambda line: line.startswith("#"), lines))
    assert len(comment) >= 2, "what it is, and the command"
    commands = [line for line in comment if "python run.py" in line]
    assert commands and all(f"{group}={name}" in command for command in commands)


@pytest.mark.parametrize(("group", "name"), [pair for pair in FILES if pair[0] in NAMED], ids=str)
def test_a_file_is_called_as_its_name_and_has_a_title(group: str, name: str) -> None:
    content = group_file(group, name)
    assert content is not None
    assert content["name"] == name
    assert isinstance(content["title"], str) and content["title"]
    if group != "protocol":
        assert type(content["version"]) is int and content["version"] >= 1


@pytest.mark.parametrize("name", group_names("model"))
@pytest.mark.usefixtures("_weights_anywhere")
def test_every_model_composes(name: str, every_file: dict[tuple[str, str], Tree], composed: Tree) -> None:
    own = {"source": "someone/model", "revision": "main", "num_layers": 12} if name == "own" else {}
    run = run_from_hydra({**composed, "model": every_file["model", name] | own})
    assert run.model.name == name and run.run_id.startswith(f"{name}-cr-low_k-k3-s0-")
    assert run.model.num_layers >= 1 and run.model.source
    if run.model.source != "random" and not run.model.source.startswith("package:"):
        assert run.model.revision, "a hub model is pinned"


@pytest.mark.parametrize("name", group_names("task"))
@pytest.mark.usefixtures("_weights_anywhere")
def test_every_task_composes(name: str, every_file: dict[tuple[str, str], Tree], composed: Tree) -> None:
    task = every_file["task", name]
    model = "gpt2" if task["kind"] == "generation" else "bert"
    own = {"own": {"train": "someone/rows"}} if name == "own" else {}
    run = run_from_hydra({**composed, "model": every_file["model", model], "task": task, **own})
    assert run.task.name == name and run.run_id.startswith(f"{model}-{name}-low_k-k3-s0-")
    for spec in (run.task, *run.task.foreign.values()):
        assert spec.metric in spec.metrics
        assert (spec.num_outputs >= 2) == (spec.kind == "classification" and name != "own")
        for counts in (spec.label_counts or {}).values():
            assert set(counts) <= set(spec.labels)
        if spec.hub is not None and spec.kind == "classification":
            strings = spec.hub.label_strings
            names = set(spec.hub.label_names or (strings.values() if strings else spec.labels))
            assert names <= set(spec.labels) or names >= set(spec.labels)


@pytest.mark.parametrize("name", group_names("method"))
def test_every_method_composes(name: str, every_file: dict[tuple[str, str], Tree], composed: Tree) -> None:
    method = every_file["method", name]
    run = run_from_hydra({**composed, "method": method})
    k = f"-k{run.method.k}" if run.method.k is not None else ""
    assert run.run_id.startswith(f"tiny_bert-cr-{name}{k}-s0-")
    assert run.method.kind
    fields = {field.name for field in dataclasses.fields(MethodSpec)}
    declared = set(group_file("method", name) or {}) - fields
    assert set(run.method.options) == {key for key in declared if not key.endswith("_by_task")}


@pytest.mark.parametrize("group", ["protocol", "train", "tracking"])
def test_every_protocol_mode_and_tracking_composes(
    group: str, every_file: dict[tuple[str, str], Tree], composed: Tree
) -> None:
    for name in group_names(group):
        run = run_from_hydra({**composed, group: every_file[group, name]})
        chosen = getattr(run, group)
        assert (chosen.name if group == "protocol" else chosen.mode) == name


def test_two_files_of_a_group_never_make_the_same_run(
    every_file: dict[tuple[str, str], Tree], composed: Tree
) -> None:
    runs = [
        run_from_hydra({**composed, "method": every_file["method", name]}) for name in group_names("method")
    ]
    without_name = [
        {**run.identity(), "method": {k: v for k, v in run.identity()["method"].items() if k != "name"}}
        | {"kind": run.method.kind}
        for run in runs
    ]
    for one, two in itertools.combinations(without_name, 2):
        assert one != two


# -- one composition ----------------------------------------------------------------------------------------


def test_the_defaults_of_a_run(composed: Tree) -> None:
    run = run_from_hydra(copy.deepcopy(composed))
    assert (run.protocol.name, run.train.mode, run.tracking.mode) == ("paper", "published", "offline")
    assert (run.seed, run.grid, run.stage, run.force) == (0, "paper", "run", False)
    assert (run.results_dir, run.outputs_dir, run.data_dir) == ("results", "outputs", None)


def test_every_key_of_the_schema_is_overridden_without_a_plus(tmp_path: Path) -> None:
    run = compose_run(
        "model=tiny_bert",
        "task=cr",
        "method=low_k",
        "protocol=study",
        "study.train_examples=123",
        "method.k=2",
        "model.head=pooled",
        "task.max_length=64",
        "task.train.epochs=4",
        "train.learning_rate=1e-4",
        "train.betas=[0.9,0.95]",
        "train.clip_norm=1",
        "train.micro_batch=8",
        "scoring.examples=100",
        "tracking.entity=team",
        "checkpoint.every_steps=7",
        "seed=42",
        "grid=fair",
        "force=true",
        f"outputs_dir={tmp_path}",
    )
    assert (run.protocol.train_examples, run.protocol.eval_examples) == (123, 1000)
    assert (run.method.k, run.model.head, run.task.max_length, run.train.epochs) == (2, "pooled", 64, 4)
    assert (run.train.learning_rate, run.train.betas, run.train.clip_norm) == (1e-4, (0.9, 0.95), 1.0)
    assert (run.train.micro_batch, run.scoring.examples, run.tracking.entity) == (8, 100, "team")
    assert (run.checkpoint.every_steps, run.seed, run.grid, run.force) == (7, 42, "fair", True)
    assert run.overrides[:3] == ("model=tiny_bert", "task=cr", "method=low_k")
    assert run.origin["learning_rate"] == "command line" and run.origin["epochs"] == "task cr"


def test_smoke_proposes_one_epoch_and_the_command_line_may_ask_for_more() -> None:
    smoke = ["model=tiny_bert", "task=cr", "method=low_k", "protocol=smoke"]
    run = compose_run(*smoke)
    assert (run.train.epochs, run.origin["epochs"]) == (1, "protocol smoke")
    assert compose_run(*smoke, "train.epochs=2").train.epochs == 2


def test_the_recipe_of_a_model_is_found_by_its_name(tmp_path: Path) -> None:
    configs = tmp_path / "configs"
    shutil.copytree(CONFIG_DIR, configs)
    recipes = configs / "recipe"
    recipes.mkdir(exist_ok=True)
    (recipes / "tiny_bert.yaml").write_text("cr:\n  low_k: {learning_rate: 3e-5, epochs: 7, records: [a]}\n")
    found = compose_run("model=tiny_bert", "task=cr", "method=low_k", config_dir=configs)
    assert (found.train.learning_rate, found.train.epochs) == (3e-5, 7)
    assert found.origin["learning_rate"] == found.origin["epochs"] == "recipe"
    other = compose_run("model=tiny_gpt2", "task=cr", "method=low_k", config_dir=configs)
    assert other.origin["learning_rate"] == "built-in"


BASE = ("model=tiny_bert", "task=cr", "method=low_k")


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (
            ("model=tiny_bret", *BASE[1:]),
            r"model=tiny_bret does not exist; allowed here: .*Did you mean 'tiny_bert'\?",
        ),
        ((*BASE[:2], "method=lowk"), r"method=lowk does not exist; .*Did you mean 'low_k'\?"),
        (BASE[:2], r"No method given: say method=<name>; allowed: .*low_k"),
        (BASE[1:], r"No model given: say model=<name>; allowed: .*bert"),
        ((*BASE, "train.epoch=3"), r"train\.epoch does not exist; allowed here: .*Did you mean 'epochs'\?"),
        ((*BASE, "sed=3"), r"sed does not exist; allowed here: .*Did you mean 'seed'\?"),
        ((*BASE, "method.zz=3"), r"method\.zz does not exist; allowed here: .*selector"),
        ((*BASE, "+method.zz=3"), r"method\.zz does not exist; allowed here: .*selector"),
        ((*BASE, "+train.zz=3"), r"train\.zz does not exist; allowed here: .*epochs"),
        ((*BASE, "+zz=3"), r"zz does not exist; allowed here: .*seed"),
        (
            (*BASE, "train.epochs=many"),
            r"train\.epochs='many' is not allowed: train\.epochs takes an integer",
        ),
        ((*BASE, "train.epochs=true"), r"train\.epochs=True is not allowed"),
        (
            (*BASE, "method.k=4"),
            r"method\.k=4 is out of range: model=tiny_bert has 4 layers, so k is between 1 and 3",
        ),
        ((*BASE, "method.k=[1"), r"method\.k=\[1.*two quotes"),
        ((*BASE, "data_dir=/a=b"), r"data_dir=/a=b.*'data_dir=\"/a=b\"'"),
        ((*BASE, "data_dir=a(b"), r"data_dir=a\(b.*'data_dir=\"a\(b\"'"),
        ((*BASE, "data_dir=ü"), "data_dir=ü.*two quotes"),
        ((*BASE, "data_dir=\udcff"), r"data_dir=\\udcff"),
        ((*BASE, "seed"), "'seed' is no override"),
        ((*BASE, "=1"), "'=1' is no override"),
        (("model=7", *BASE[1:]), "model=7 is not allowed: model takes a name.*tiny_bert"),
        (("model=null", *BASE[1:]), "model=null is not allowed"),
        (("model=[tiny_bert]", *BASE[1:]), "model=.*takes a name"),
        (("model=${..}", *BASE[1:]), "takes a name"),
        (("model=a/b", *BASE[1:]), "model=a/b is not allowed.*tiny_bert"),
        (("model=" + "x" * 300, *BASE[1:]), "takes a name"),
        ((*BASE, "protocol=1.5"), "protocol=1.5 is not allowed.*smoke"),
        ((*BASE, "hydra/launcher=7"), "hydra/launcher=7 is not allowed"),
        ((*BASE, "task.counts.x=3"), r"to add it, say \+task\.counts\.x="),
        ((*BASE, "train.epochs.x=3"), r"train\.epochs is null"),
        ((*BASE, "seed.x=3"), "seed is one value"),
        ((*BASE, "+origin={a:b}"), "origin does not exist"),
        ((*BASE, "~method"), "No method given"),
        (
            (*BASE, "+model.random_config.vocab_size=9"),
            r"^model\.random_config\.vocab_size is there already: say model\.random_config\.vocab_size=",
        ),
        ((*BASE, "+seed=2"), r"^seed is there already: say seed=<value>, without the \+\.$"),
        ((*BASE, "+task=mr"), "^task is chosen twice: say task=<name> once"),
        ((*BASE, "~sed"), "^~sed removes nothing: sed does not exist"),
        ((*BASE, "~seed=5"), "^~seed=5 removes nothing: seed is 0"),
        ((*BASE, "~model@other"), "^~model@other removes nothing: no model@other is chosen"),
        (
            (*BASE, "hydra/launcher=nosuch"),
            r"^hydra/launcher=nosuch does not exist; allowed here: basic(, [a-z_]+)*\.$",
        ),
    ],
    ids=lambda value: value[-1] if isinstance(value, tuple) else "",
)
def test_a_wrong_override_is_a_config_error_of_one_sentence(
    overrides: tuple[str, ...], sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence) as caught:
        compose_run(*overrides)
    assert "\n" not in str(caught.value)


def test_a_long_value_that_cannot_be_read_leaves_room_for_what_to_do() -> None:
    with pytest.raises(ConfigError, match=r"seed=.*cannot be read.*two quotes"):
        compose_run(*BASE, "seed=" + "[" * 3000)


@pytest.mark.parametrize("name", ["x" * 300, "../model/tiny_bert", "a\0b", ""])
@pytest.mark.parametrize("group", ["model", "tracking"])
def test_what_is_no_name_is_a_choice_that_does_not_exist_in_tables_too(group: str, name: str) -> None:
    with pytest.raises(ConfigError, match=f"{group}=.*(does not exist|not allowed)"):
        plain_run([*BASE, f"{group}={name}"])


def test_group_names_are_the_files() -> None:
    names = group_names("protocol")
    assert names == sorted(names) == sorted(path.stem for path in (CONFIG_DIR / "protocol").iterdir())


def test_a_folder_of_one_s_own_is_looked_into_no_longer_than_it_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "method").mkdir()
    (tmp_path / "method" / "mine.yaml").write_text("name: mine\ntitle: Of one's own\n")
    with looking_into([tmp_path]):
        assert "mine" in group_names("method") and group_choice("method", "mine")["title"] == "Of one's own"
    assert "mine" not in group_names("method")
    with pytest.raises(ConfigError, match="mine"):
        group_choice("method", "mine")
    with pytest.raises(ConfigError, match="nowhere"), looking_into([tmp_path, tmp_path / "nowhere"]):
        pass
    assert "mine" not in group_names("method")


def test_composing_inside_a_hydra_application_leaves_that_application_alone() -> None:
    from hydra import initialize_config_dir

    assert not GlobalHydra.instance().is_initialized()
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        outer = GlobalHydra.instance().hydra
        assert compose_run(*BASE).seed == 0
        assert GlobalHydra.instance().hydra is outer
        with pytest.raises(ConfigError):
            compose_run("model=nowhere")
        assert GlobalHydra.instance().hydra is outer
    compose_run(*BASE)
    assert not GlobalHydra.instance().is_initialized()


def test_a_composed_run_is_a_value(composed: Tree) -> None:
    one, two = run_from_hydra(copy.deepcopy(composed)), compose_run(*BASE)
    assert isinstance(one, RunConfig)
    assert dataclasses.replace(two, overrides=()) == one


@pytest.mark.parametrize("text", ["no", "off", "Yes", "ON", "1e-5", "null", "[1,2]", "{a: 1}", "true"])
def test_a_value_is_read_as_hydra_reads_it(text: str) -> None:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    read = OverridesParser.create().parse_override(f"own.text={text}").value()
    assert plain_tree([*BASE, f"own.text={text}"])["own"]["text"] == read
