"""The paper's numbers: hand-picked values, the errata's targets, and what is said of a malformed file."""

from __future__ import annotations

import re
from collections import Counter, defaultdict

import pytest

from layertune.errors import ConfigError
from layertune.report.paper import load_errata, load_paper_tables


@pytest.mark.parametrize(
    ("table", "row", "model", "task", "metric", "value", "std"),
    [  # read off the printed pages
        (1, "full", "bert", "sst2", "accuracy", 91.7, 0.3),
        (1, "lift", "bert", "mpqa", "accuracy", 87.0, 0.4),
        (1, "block_low", "bert", "average", "mean", 85.0, None),
        (2, "recap", "bert", "rte", "accuracy", 61.3, 1.6),
        (2, "io_high_k", "bert", "stsb", "pearson", 81.2, 0.9),
        (2, "slimfit", "bert", "mrpc", "f1_macro", 75.9, 0.9),
        (3, "random_k", "gpt2", "e2e", "nist", 7.25, 0.82),
        (3, "bottom_k", "gpt2", "e2e", "meteor", 45.3, 0.9),
        (3, "block_low", "gpt2", "e2e", "cider", 2.48, 0.05),
        (4, "slimfit", "bert", "average", "speedup", 1.21, None),
        (4, "ours_mean", "bert", "average", "trainable_parameters", 28.3, None),
        (5, "io", "bert", "olid_dynahate", "accuracy", 47.6, None),
        (5, "ours_best", "bert", "imdb_sst2", "accuracy", 88.5, None),
        (6, "top_k", "tinyllama", "stsb", "pearson", 68.7, None),
        (6, "low_k", "electra", "sst2", "accuracy", 93.2, None),
        (7, "euclidean_low_k", "bert", "cola", "accuracy", 77.3, None),
        (7, "low_k", "bert", "cola", "accuracy", 80.8, None),
        (8, "variance_k", "bert", "mrpc", "f1_macro", 71.5, None),
        (9, "block_random", "bert", "mrpc", "f1_macro", 70.2, None),
        (10, "lora_r64", "bert", "qnli", "accuracy", 85.5, None),
    ],
)
def test_a_value_is_the_printed_one(paper, table, row, model, task, metric, value, std):
    found = paper.find(table, row, task, metric, model)
    assert (found.target, found.std, found.value) == (value, std, value)


def test_all_608_numbers_are_there_once_each(paper):
    assert len(paper.numbers) == 608
    assert len({number.cell for number in paper.numbers}) == 608
    # 17 rows x 9, x 8 and x 6; 11 rows x 2 less one dash; 4 pairs x 8; 5 models x 5 x 4; four columns each
    counts = Counter(number.table for number in paper.numbers)
    assert counts == {1: 153, 2: 136, 3: 102, 4: 21, 5: 32, 6: 100, 7: 16, 8: 12, 9: 16, 10: 20}


def test_printed_digits_survive(paper):
    found = paper.find(3, "recap", "e2e", "nist", "gpt2")
    assert (found.printed, found.std_printed, found.decimals) == ("8.60", "0.11", 2)
    assert paper.find(4, "io", "average", "speedup").decimals == 2


def test_row_and_task_keys_are_the_printed_labels_one_to_one(paper):
    labels = {
        "full": {"Full Fine-tuning", "Full Fine-tuning (FT)"},
        **{"lora": {"LoRA"}, "adapters": {"Adapters"}, "prefix": {"Prefix-Tuning"}, "ia3": {"(IA)³"}},
        **{"lift": {"LIFT"}, "recap": {"RECAP"}, "slimfit": {"SlimFit"}},
        "random_k": {"Random k layers", "Random Selection"},
        **{"bottom_k": {"Bottom k layers"}, "top_k": {"Top k layers"}},
        "io_low_k": {"k Low Similarity (Important)"},
        "io_high_k": {"k High Similarity (Redundant)"},
        "io": {"I/O Similarity", "I/O Similarity based"},
        **{"high_k": {"High Scoring k layers"}, "low_k": {"Low Scoring k layers"}},
        **{"euclidean_high_k": {"High Scoring k layers"}, "euclidean_low_k": {"Low Scoring k layers"}},
        "block_high": {"Block-wise highest layer", "Block-wise Highest (Ours)"},
        "block_low": {"Block-wise lowest layer", "Block-wise Lowest (Ours)"},
        **{"block_median": {"Block-wise Median"}, "block_random": {"Block-wise Random"}},
        **{"grad_norm_k": {"Gradient Norm"}, "variance_k": {"Feature Variance"}},
        "ours_mean": {"Our Method"},
        "ours_best": {"Our Method", "Our Method (Best)", "[CLS] Similarity (Ours)"},
        **{f"lora_r{r}": {f"LoRA (r = {r}, α = {2 * r})"} for r in (8, 16, 32, 64)},
    }
    found = defaultdict(set)
    for number in paper.numbers:
        found[number.row].add(number.method_printed)
        short = number.dataset_printed.replace("Dyn. Hate", "DynaHate").lower().replace("-", "")
        expected = {"avg.": "average", "": "average"}.get(short, short.replace(" → ", "_"))
        assert number.task == expected
    assert found == labels
    euclidean = {n.group_printed for n in paper.numbers if n.table == 7 and n.row.startswith("euclidean")}
    assert euclidean == {"Layer selection based on Euclidean distance"}


def test_every_task_is_printed_with_one_metric_and_every_percentage_is_one(paper):
    metrics = defaultdict(set)
    for number in paper.numbers:
        if number.table != 4 and number.task != "e2e":
            metrics[number.task].add(number.metric)
        if number.unit == "percent":
            assert 40 < number.value < 100
    assert {len(names) for names in metrics.values()} == {1}
    assert metrics["qqp"] == {"f1_macro"}


def test_the_erratum_replaces_table_9s_qnli_by_table_2s(paper):
    found = paper.find(9, "block_high", "qnli", "accuracy")
    assert (found.target, found.printed) == (88.7, "90.2")
    assert found.erratum.id == "table9_qnli_block_high"
    assert paper.find(2, "block_high", "qnli", "accuracy").erratum is None
    assert paper.find(2, "high_k", "qnli", "accuracy").target == 90.2


@pytest.mark.parametrize(
    ("table", "row"),
    [
        *((4, row) for row in ("lora", "lift", "recap", "slimfit", "io")),
        *((3, row) for row in ("lora", "adapters", "prefix", "ia3", "lift", "recap", "slimfit")),
    ],
)
def test_a_parameter_count_that_cannot_be_derived_is_no_target(paper, table, row):
    task = "average" if table == 4 else "e2e"
    found = paper.find(table, row, task, "trainable_parameters", "bert" if table == 4 else "gpt2")
    assert found.target is None and found.value > 0 and found.erratum is not None


def test_counts_that_can_be_derived_stay_targets(paper):
    assert paper.find(4, "full", "average", "trainable_parameters").target == 116.6
    assert paper.find(4, "adapters", "average", "trainable_parameters").target == 3.6
    assert paper.find(3, "low_k", "e2e", "trainable_parameters", "gpt2").target == 21.3


def test_a_cell_the_paper_leaves_empty_has_no_value(paper):
    assert paper.find(4, "full", "average", "speedup") is None
    assert paper.find(1, "lisa", "sst2", "accuracy") is None


GOOD_HEADER = "table,row,model,task,metric,value,std,unit,group_printed,method_printed,dataset_printed"
GOOD_LINE = "1,full,bert,sst2,accuracy,91.7,0.3,percent,,Full Fine-tuning,SST-2"


@pytest.mark.parametrize(
    ("tables", "errata", "message"),
    [
        ("table,row\n1,full\n", "errata: []", "tables.csv: the columns"),
        (
            f"{GOOD_HEADER}\n{GOOD_LINE.replace('91.7', 'x')}\n",
            "errata: []",
            "tables.csv:2: printed",
        ),
        (f"{GOOD_HEADER}\n{GOOD_LINE.replace('percent', 'mile')}\n", "errata: []", "tables.csv:2: unit"),
        (f"{GOOD_HEADER}\n{GOOD_LINE}\n{GOOD_LINE}\n", "errata: []", "comes twice"),
        (f"{GOOD_HEADER}\n{GOOD_LINE}\n", "errata: {}", "errata.yaml: errata"),
        (f"{GOOD_HEADER}\n{GOOD_LINE}\n", "[", "errata.yaml is not valid YAML"),
        (f"{GOOD_HEADER}\n{GOOD_LINE}\n", "wrong: []", "errata.yaml: errata"),
        (f"{GOOD_HEADER}\n{GOOD_LINE}\n", "errata: [{id: a}]", "errata.yaml: errata.0.where"),
    ],
)
def test_a_malformed_file_is_named(tmp_path, tables, errata, message):
    (tmp_path / "tables.csv").write_text(tables, encoding="utf-8")
    (tmp_path / "errata.yaml").write_text(errata, encoding="utf-8")
    with pytest.raises(ConfigError, match=re.escape(message)):
        load_paper_tables(tmp_path)


def test_an_erratum_about_a_number_that_is_not_printed_is_refused(tmp_path):
    (tmp_path / "tables.csv").write_text(f"{GOOD_HEADER}\n{GOOD_LINE}\n", encoding="utf-8")
    cell = "{table: 1, row: full, model: bert, task: sst2, metric: accuracy, printed: '91.8', target: 91.7}"
    texts = "id: a, where: b, printed: c, follows: {}, derivation: d, target: e, verdict: confirmed"
    entry = f"{texts}, cells: [{cell}]"
    (tmp_path / "errata.yaml").write_text(f"errata: [{{{entry}}}]", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"a says that .* prints 91.8, but tables.csv has 91.7"):
        load_paper_tables(tmp_path)
    (tmp_path / "errata.yaml").write_text(
        f"errata: [{{{entry.replace('confirmed', 'odd')}}}]", encoding="utf-8"
    )
    with pytest.raises(ConfigError, match="odd"):
        load_errata(tmp_path)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot read .*nowhere.*tables\.csv"):
        load_paper_tables(tmp_path / "nowhere")
