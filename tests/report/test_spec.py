"""Every table and figure as its file declares it: rows, columns, runs, the paper's number beside a cell."""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from layertune.config import RunConfig
from layertune.config.compose import compose_run, plain_run
from layertune.errors import ConfigError
from layertune.report.paper import PaperTables
from layertune.report.spec import Cell, TableSpec, load_table, table_names

ALL = [f"table{n}" for n in range(1, 11)] + [f"figure{n}" for n in range(2, 6)]
METHODS_OF_TABLE_1 = [
    "full", "lora", "adapters", "prefix", "ia3", "random_k", "bottom_k", "top_k", "lift", "recap", "slimfit",
    "io_low_k", "io_high_k", "high_k", "low_k", "block_high", "block_low",
]  # fmt: skip


@pytest.fixture(autouse=True)
def _no_local_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LAYERTUNE_DATA", raising=False)


def test_all_tables_and_figures_are_there() -> None:
    assert table_names() == ALL


@pytest.mark.parametrize("name", ALL)
def test_every_cell_composes(name: str) -> None:
    for cell in load_table(name).cells():
        runs = cell.runs()
        assert runs and all(isinstance(run, RunConfig) for run in runs), cell.key


@cache
def telling_runs() -> dict[str, list[RunConfig]]:
    """Return, by table, runs which together say every word of every cell: the tables before said the rest."""
    said: set[str] = set()
    found: dict[str, list[RunConfig]] = {}
    for name in ALL:
        found[name] = []
        for run in (run for cell in load_table(name).cells() for run in cell.runs()):
            if not said.issuperset(run.overrides):
                said.update(run.overrides)
                found[name].append(run)
    return found


@pytest.mark.parametrize("name", ALL)
def test_the_runs_of_a_cell_are_those_that_the_command_line_asks_for(name: str) -> None:
    for run in telling_runs()[name]:
        assert compose_run(*run.overrides) == run


@pytest.mark.parametrize(
    "overrides",
    [
        ("model=bert", "task=olid_dynahate", "method=lora", "method.r=8", "grid=fair"),
        ("model=gpt2", "task=e2e", "method=full", "train.betas=[0.9,0.95]"),
        ("model=tiny_bert", "task=demo", "method=low_k", "protocol=study", "study.train_examples=50"),
        ("model=bert", "task=sst2", "method=top_k", "train=fast", "train.learning_rate=1e-5", "seed=7"),
    ],
)
def test_composition_without_hydra_equals_hydra(overrides: tuple[str, ...]) -> None:
    assert plain_run(overrides) == compose_run(*overrides)


def test_composition_without_hydra_refuses_what_does_not_exist() -> None:
    with pytest.raises(ConfigError, match=r"task=sst3 does not exist; known: .*sst2"):
        plain_run(["model=bert", "task=sst3", "method=full"])
    with pytest.raises(ConfigError, match=r"'train\.epochs' is no override"):
        plain_run(["model=bert", "task=sst2", "method=full", "train.epochs"])
    with pytest.raises(ConfigError, match=r"train\.epoch does not exist"):
        plain_run(["model=bert", "task=sst2", "method=full", "train.epoch=3"])


@pytest.mark.parametrize("table", range(1, 11))
def test_every_number_of_the_paper_stands_beside_one_cell(table: int, paper: PaperTables) -> None:
    keys = [cell.paper_key for cell in load_table(table).cells() if cell.paper_key is not None]
    beside = [key for key in keys if paper.find(*key) is not None]
    printed = [one.cell for one in paper.numbers if one.table == table]
    assert sorted(beside) == sorted(printed)


def test_rows_headings_and_columns_of_table_1_are_the_papers(paper: PaperTables) -> None:
    table = load_table("table1")
    assert [row.key for row in table.rows] == METHODS_OF_TABLE_1
    printed = {n.row: (n.method_printed, n.group_printed) for n in paper.numbers if n.table == 1}
    assert {row.key: (row.title, row.group) for row in table.rows} == printed
    assert [column.title for column in table.columns] == [
        "SST-2 (acc)", "SST-5 (acc)", "MR (acc)", "CR (acc)", "MPQA (acc)", "Subj (acc)", "TREC (acc)",
        "CoLA (acc)", "Avg.",
    ]  # fmt: skip
    assert table.seeds == (0, 42, 100)
    assert [row.key for row in table.rows if not row.ranked] == ["full"]


def test_titles_of_table_2_name_the_metrics_as_the_paper_does() -> None:
    assert [column.title for column in load_table(2).columns] == [
        "MNLI (acc)", "SNLI (acc)", "QNLI (acc)", "RTE (acc)", "MRPC (F1)", "QQP (F1)",
        "STS-B (Pear.)", "Avg.",
    ]  # fmt: skip
    assert load_table(2).column("mrpc").metric == "f1_macro"


def _asked(cell: Cell) -> set[str]:
    return set(cell.own_runs()[0].overrides)


def test_a_cell_asks_for_one_run_per_seed() -> None:
    cell = load_table("table1").cell("low_k", "trec")
    assert [run.seed for run in cell.runs()] == [0, 42, 100]
    assert _asked(cell) == {
        "model=bert", "task=trec", "method=low_k", "protocol=paper", "train=published", "seed=0",
    }  # fmt: skip


def test_an_average_asks_for_the_runs_of_its_columns() -> None:
    cell = load_table("table2").cell("full", "average")
    tasks = ["mnli", "snli", "qnli", "rte", "mrpc", "qqp", "stsb"]
    assert cell.how == "mean"
    assert [(run.task.name, run.seed) for run in cell.runs()] == [(t, s) for t in tasks for s in (0, 42, 100)]


@pytest.mark.parametrize("name", ["table5", "table8", "table10"])
def test_the_best_strategy_stands_above_the_four_fixed_ones_with_a_footnote(name: str) -> None:
    table = load_table(name)
    best = table.row("ours_best")
    assert (best.how, best.of, best.ranked) == ("best", ("high_k", "low_k", "block_high", "block_low"), False)
    keys = [row.key for row in table.rows]
    assert keys.index("ours_best") < min(keys.index(key) for key in best.of)
    assert "chosen per column on the evaluation split" in table.footnotes[best.mark]


@pytest.mark.parametrize("name", ALL)
def test_every_mark_has_its_footnote(name: str) -> None:
    table = load_table(name)
    marks = {item.mark for item in (*table.rows, *table.columns)} - {""}
    assert marks == set(table.footnotes)


def test_table_3_reads_the_test_split_and_prints_the_papers_units() -> None:
    table = load_table(3)
    scales = {column.key: (column.scale, column.decimals) for column in table.columns}
    assert scales == {
        "trainable_parameters": (1e-6, 2),
        "bleu": (100, 1),
        "nist": (1, 2),
        "meteor": (100, 1),
        "rouge_l": (100, 1),
        "cider": (1, 2),
    }
    run = table.cell("block_low", "nist").runs()[0]
    assert (run.model.name, run.task.name, run.task.eval_split) == ("gpt2", "e2e", "test")
    assert "test split" in table.caption


def test_table_4_times_every_method_and_takes_speed_ups_over_full_fine_tuning() -> None:
    table = load_table(4)
    cell = table.cell("top_k", "speedup_qnli")
    assert cell.reference is not None and cell.reference.key == ("full", "speedup_qnli")
    assert {run.protocol.name for run in table.runs()} == {"timing"}
    assert {run.method.name for run in cell.runs()} == {"top_k", "full"}
    assert table.row("ours_mean").how == "mean" and table.row("io").of == ("io_low_k", "io_high_k")
    with_head, without = table.column("trainable_parameters"), table.column("added")
    assert set(with_head.paper_rows or ()) & set(without.paper_rows or ()) == set()


def test_table_5_has_both_directions_with_accuracy_and_macro_f1() -> None:
    table = load_table(5)
    found = [(column.task, column.evaluation, column.metric) for column in table.columns]
    pairs = [
        ("sst2_imdb", "imdb"),
        ("imdb_sst2", "sst2"),
        ("olid_dynahate", "dynahate"),
        ("dynahate_olid", "olid"),
    ]
    assert found == [(*pair, metric) for pair in pairs for metric in ("accuracy", "f1_macro")]
    assert table.column("imdb_sst2").title == "IMDb → SST-2 (acc)"
    for column in table.columns:  # an evaluation set that the task scores
        assert column.evaluation in table.cell("full", column.key).runs()[0].task.foreign


def test_table_6_keeps_its_five_models_and_adds_another() -> None:
    five = ["roberta", "deberta", "electra", "gemma2_2b", "tinyllama"]
    assert list(dict.fromkeys(row.model for row in load_table(6).rows)) == five
    assert list(dict.fromkeys(row.model for row in load_table(6, model="roberta").rows)) == five
    table = load_table(6, model="gte_small")
    assert list(dict.fromkeys(row.model for row in table.rows)) == [*five, "gte_small"]
    assert [row.group for row in table.rows[-5:]] == ["GTE-small"] * 5
    assert table.cell("gte_small/low_k", "rte").runs()[1].overrides[0] == "model=gte_small"
    assert table.cell("roberta/low_k", "rte").paper_key == (6, "low_k", "rte", "accuracy", "roberta")


def test_a_row_whose_model_cannot_do_what_is_asked_is_refused_and_the_others_stand() -> None:
    table = load_table(6, overrides=["train.precision=bf16"])
    refused = {cell.row.model for cell in table.cells() if cell.refusal}
    assert refused == {"deberta"}
    for cell in table.cells():
        assert bool(cell.runs()) == (cell.row.model != "deberta")
        if cell.refusal:
            assert cell.refusal.startswith("train.precision=bf16 does not work with model=deberta")
    with pytest.raises(ConfigError, match="fp13"):  # nobody can: the request is wrong
        load_table(6, overrides=["train.precision=fp13"]).cells()


def test_table_10_changes_the_rank_of_lora() -> None:
    table = load_table(10)
    ranks = [table.cell(f"lora_r{r}", "cola").runs()[0].method.options["r"] for r in (8, 16, 32, 64)]
    assert ranks == [8, 16, 32, 64]
    ours = [run.config_sha256 for run in table.cell("lora_r16", "cola").runs()]
    assert ours == [run.config_sha256 for run in load_table(1).cell("lora", "cola").runs()]


def _models(table: TableSpec) -> set[str]:
    return {run.model.name for run in table.runs()}


@pytest.mark.parametrize("name", [name for name in ALL if name not in ("table3", "table6", "figure3")])
def test_model_replaces_bert(name: str) -> None:
    assert _models(load_table(name)) == {"bert"}
    assert _models(load_table(name, model="gte_small", lm="smollm2")) == {"gte_small"}


def test_lm_replaces_gpt2_in_table_3_and_figure_3_and_model_does_not() -> None:
    assert _models(load_table(3, model="gte_small")) == {"gpt2"}
    assert _models(load_table(3, lm="smollm2")) == {"smollm2"}
    assert _models(load_table("figure3", model="gte_small", lm="smollm2")) == {"gte_small", "smollm2"}


def test_another_model_or_a_subset_does_not_compare_with_the_paper() -> None:
    def comparable(**chosen: str) -> bool:
        return load_table(1, **chosen).cell("low_k", "mr").comparable  # type: ignore[arg-type]

    assert comparable() and comparable(model="bert_cased") and comparable(train="fast")
    assert not comparable(model="gte_small")
    assert not comparable(protocol="study")


def test_train_grid_protocol_and_further_overrides_reach_every_run() -> None:
    run = load_table(1, train="fast", grid="fair", overrides=["train.epochs=3"]).cell("lora", "cr").runs()[2]
    assert (run.train.mode, run.grid, run.train.epochs, run.seed) == ("fast", "fair", 3, 100)
    assert {run.protocol.name for run in load_table(7, protocol="study").runs()} == {"study"}


def test_a_protocol_stands_in_place_of_paper_and_never_of_timing() -> None:
    assert {run.protocol.name for run in load_table(4, protocol="study").runs()} == {"timing"}
    figure = load_table("figure4", protocol="study")
    assert figure.cell("low_k@5", "sst2").runs()[0].protocol.name == "study"
    assert figure.cell("low_k@5", "speedup").runs()[0].protocol.name == "timing"


@pytest.mark.parametrize(("model", "layers"), [("bert", 12), ("tiny_bert", 4)])
def test_figures_4_and_5_sweep_k_below_the_number_of_layers(model: str, layers: int) -> None:
    for name, task in (("figure4", "sst2"), ("figure5", "qnli")):
        figure = load_table(name, model=model)
        sweep = [f"{method}@{k}" for method in ("high_k", "low_k") for k in range(1, layers)]
        assert [row.key for row in figure.rows] == ["full", *sweep]
        run = figure.cell("low_k@2", task).runs()[0]
        assert (run.task.name, run.method.name, run.method.k) == (task, "low_k", 2)


def test_k_3_of_a_figure_is_the_run_of_the_table() -> None:
    figure, table = load_table("figure4"), load_table("table1")
    assert (
        figure.cell("low_k@3", "sst2").runs()[0].config_sha256
        == table.cell("low_k", "sst2").runs()[0].config_sha256
    )


def test_figures_2_and_3_ask_for_one_score_run_and_take_any_record_with_the_same_scores() -> None:
    cell = load_table("figure3").cell("e2e", "scores")
    assert [(run.model.name, run.task.name, run.stage) for run in cell.runs()] == [("gpt2", "e2e", "score")]
    assert {run.method.scorer for run in cell.own_runs()} == {"cosine"}
    assert {run.stage for run in cell.own_runs()} == {"score", "run"}
    panels = [row.key for name in ("figure2", "figure3") for row in load_table(name).rows]
    assert panels == ["sst2", "qnli", "cola", "mrpc", "stsb", "e2e"]


def test_cells_compose_wherever_the_data_are(monkeypatch: pytest.MonkeyPatch) -> None:
    before = load_table(9).cell("block_low", "qnli").runs()
    monkeypatch.setenv("LAYERTUNE_DATA", "/no/such/folder")
    assert plain_run(before[0].overrides) == before[0]


def test_a_wrong_request_names_what_exists() -> None:
    with pytest.raises(ConfigError, match=r"table=table11 does not exist; known: .*table1"):
        load_table(11)
    with pytest.raises(ConfigError, match=r"model=bret does not exist; known: .*bert"):
        load_table(1, model="bret")
    with pytest.raises(ConfigError, match="table7 has no 'full'; it has euclidean_high_k"):
        load_table(7).row("full")


def test_no_torch_and_no_hydra_behind_the_tables(repo: Path) -> None:
    code = (
        "import sys; from layertune.report.spec import load_table; "
        "from layertune.report.index import RecordIndex; "
        "from layertune.report.values import table_values; "
        "table_values(load_table(7), RecordIndex.read('results/runs')); "
        "print([name for name in ('torch', 'transformers', 'hydra', 'pandas') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=repo, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
