"""What a run is where nothing else is asked: the numbers of the paper, of its code, of the sources."""

from __future__ import annotations

import pytest

from layertune.config import DecodingSpec, RunConfig
from layertune.config.compose import plain_run
from layertune.config.files import splits_needed
from layertune.report.spec import load_table, table_names


def run(model: str = "bert", task: str = "sst2", method: str = "low_k", **more: object) -> RunConfig:
    others = [f"{key}={value}" for key, value in more.items()]
    return plain_run([f"model={model}", f"task={task}", f"method={method}", *others])


@pytest.mark.parametrize(
    ("method", "scorer", "selector"),
    [
        ("high_k", "cosine", "highest"),  # §3.1
        ("low_k", "cosine", "lowest"),
        ("block_high", "cosine", "block_highest"),
        ("block_low", "cosine", "block_lowest"),
        ("random_k", None, "random"),  # §4.2
        ("top_k", None, "top"),
        ("bottom_k", None, "bottom"),
        ("io_high_k", "io_cosine", "highest"),
        ("io_low_k", "io_cosine", "lowest"),
        ("euclidean_high_k", "euclidean", "highest"),  # §7.3
        ("euclidean_low_k", "euclidean", "lowest"),
        ("grad_norm_k", "gradient_norm", "highest"),  # §7.4
        ("variance_k", "feature_variance", "highest"),
        ("spectrum_high_k", "spectrum", "highest"),  # what the sources of these train, prune or rank
        ("block_influence_high_k", "block_influence", "highest"),
        ("block_influence_low_k", "block_influence", "lowest"),
        ("angular_high_k", "angular", "highest"),
        ("angular_low_k", "angular", "lowest"),
        ("cka_high_k", "cka", "highest"),
        ("cka_low_k", "cka", "lowest"),
        ("weight_norm_high_k", "weight_norm", "highest"),
        ("weight_norm_low_k", "weight_norm", "lowest"),
        ("fisher_high_k", "fisher", "highest"),
        ("block_median", "cosine", "block_median"),  # §7.5
        ("block_random", None, "block_random"),
    ],
)
def test_a_selection_method_ranks_by_its_score_in_its_direction(method, scorer, selector):
    spec = run(method=method).method
    assert (spec.kind, spec.scorer, spec.selector, spec.k) == ("selected", scorer, selector, 3)


def test_the_last_layers_with_a_pooled_head_are_those_of_their_source():
    found = run(method="elsa")  # Lee et al. 2019: a quarter of the layers
    assert (found.method.selector, found.method.k, found.head_in_force) == ("top", 3, "pooled")


OPTIONS = {
    "lora": {"r": 16, "alpha": None, "dropout": 0.1},  # §4.4; alpha = 2r (§7.6); its source's GPT-2 example
    "adapters": {"bottleneck": 96, "train_norms": True},  # 3.6 M of Table 4
    "prefix": {"length": 20, "mlp": False},  # 0.4 M of Table 4
    "ia3": {"targets": "original"},
    "lift": {"order": "sequential", "period": None},
    "lisa": {"layers": 3, "every": 20, "freeze_embeddings": False},  # lisa_trainer.py of LMFlow
    "slimfit": {"freezing_rate": 0.95, "quantise": False},  # SST-2 of its scripts
    "recap": {"prune": 0.17, "mask": 0.5, "rounds": 5, "prune_steps": 1, "source_budget": False},  # CoLA's
}


@pytest.mark.parametrize("method", OPTIONS)
def test_a_baseline_has_the_settings_of_its_source(method):
    options = run(method=method).method.options
    assert {key: options[key] for key in OPTIONS[method]} == OPTIONS[method]


FREEZING = {"cola": 0.90, "mrpc": 0.90, "stsb": 0.85, "qnli": 0.95, "qqp": 0.80, "mnli": 0.80, "rte": 0.90}


@pytest.mark.parametrize(
    ("task", "share"), [*FREEZING.items(), ("snli", 0.80), ("trec", 0.90), ("sst2_imdb", 0.95)]
)
def test_slimfit_freezes_the_share_of_its_task(task, share):
    assert run(task=task, method="slimfit").method.options["freezing_rate"] == share


def test_recap_decays_no_weight_on_any_task():
    assert {run(task=task, method="recap").train.weight_decay for task in ("sst2", "stsb")} == {0.0}
    assert run("gpt2", "e2e", "recap").train.weight_decay == 0.0


CLASSIFIED = ("sst2", "sst5", "mr", "cr", "mpqa", "subj", "trec", "cola")
PAIRS = ("mnli", "snli", "qnli", "rte", "mrpc", "qqp", "stsb")


@pytest.mark.parametrize("task", (*CLASSIFIED, *PAIRS))
def test_a_task_is_encoded_evaluated_and_measured_as_in_the_released_code(task):
    spec = run(task=task).task
    assert spec.max_length == (128 if task in ("mpqa", "trec") else 256)
    assert spec.segment_ids == "zeros"
    assert spec.eval_split == (
        "test" if task in ("sst5", "mr", "cr", "mpqa", "subj", "trec") else "validation"
    )
    assert spec.metric == {"mrpc": "f1_macro", "qqp": "f1_macro", "stsb": "pearson"}.get(task, "accuracy")
    assert (spec.best_by or spec.metric) == ("pearson" if task == "stsb" else "accuracy")
    assert len(spec.columns) == (2 if task in PAIRS else 1)
    assert (spec.kind, len(spec.labels)) == {
        "stsb": ("regression", 0),
        "sst5": ("classification", 5),
        "trec": ("classification", 6),
        "mnli": ("classification", 3),
        "snli": ("classification", 3),
    }.get(task, ("classification", 2))


@pytest.mark.parametrize(
    ("task", "labels"),
    [
        ("mrpc", ("not_equivalent", "equivalent")),  # binary F1 counts label 1
        ("qqp", ("not_duplicate", "duplicate")),
        ("sst2", ("negative", "positive")),  # labels of two domains are matched by position
        ("imdb", ("negative", "positive")),
        ("olid", ("NOT", "OFF")),
        ("dynahate", ("nothate", "hate")),
        ("subj", ("subjective", "objective")),  # as in LM-BFF, unlike the hub
        ("trec", ("DESC", "ENTY", "ABBR", "HUM", "LOC", "NUM")),
    ],
)
def test_labels_have_the_order_that_a_metric_or_another_domain_reads(task, labels):
    assert run(task=task).task.labels == labels


@pytest.mark.parametrize(
    ("pair", "splits"),
    [
        ("sst2_imdb", [("sst2", "train"), ("sst2", "validation"), ("imdb", "test")]),
        ("imdb_sst2", [("imdb", "train"), ("imdb", "test"), ("sst2", "validation")]),
        ("olid_dynahate", [("olid", "train"), ("olid", "test"), ("dynahate", "test")]),
        ("dynahate_olid", [("dynahate", "train"), ("dynahate", "test"), ("olid", "test")]),
    ],
)
def test_across_domains_one_train_split_and_two_evaluation_splits_are_read(pair, splits):
    found = run(task=pair)
    assert splits_needed(found.task, found.protocol) == splits


def test_the_rows_of_the_hub_are_the_matched_ones_the_later_version_and_the_ones_with_a_gold_label():
    assert run(task="mnli").task.hub.splits["validation"] == "validation_matched"
    assert run(task="dynahate").task.hub.data_files == {"train": "*v0.2.3*.csv"}
    assert run(task="snli").task.hub.drop_labels == (-1,)


def test_e2e_is_trained_and_decoded_as_in_the_released_code():
    found = run("gpt2", "e2e")
    assert (found.task.dev_split, found.task.eval_split, found.task.max_length) == ("validation", "test", 128)
    assert (found.task.format, found.task.score_text, found.scoring.examples) == ("code", "full", 400)
    assert found.task.decoding == DecodingSpec(num_beams=10, length_penalty=0.8, max_new_tokens=64)
    train = found.train
    assert (train.epochs, train.batch_size, train.learning_rate, train.betas) == (5, 8, 5e-5, (0.9, 0.999))
    assert (train.schedule, train.warmup_ratio, train.clip_norm) == ("cosine", 0.1, 1.0)
    assert (train.weight_decay, train.label_smoothing) == (0.01, 0.1)


def test_e2e_lora_differs_where_its_source_does():
    found = run("gpt2", "e2e_lora", "lora")
    expected = DecodingSpec(
        num_beams=10, length_penalty=0.8, no_repeat_ngram=4, max_new_tokens=64, stop="\n\n"
    )
    assert found.task.decoding == expected
    assert (found.task.format, found.task.max_length) == ("lora", 512)
    train = found.train
    assert (train.learning_rate, train.schedule, train.warmup_ratio, train.clip_norm) == (
        *(2e-4, "linear", 0.019),
        None,
    )


@pytest.mark.parametrize(
    ("model", "source", "layers", "token"),
    [
        ("bert", "google-bert/bert-base-uncased", 12, "first"),
        ("bert_cased", "google-bert/bert-base-cased", 12, "first"),
        ("roberta", "FacebookAI/roberta-base", 12, "first"),
        ("deberta", "microsoft/deberta-base", 12, "first"),
        ("electra", "google/electra-base-discriminator", 12, "first"),
        ("gpt2", "openai-community/gpt2", 12, "last"),
        ("gemma2_2b", "google/gemma-2-2b", 26, "last"),
        ("tinyllama", "TinyLlama/TinyLlama-1.1B-intermediate-step-1431k-3T", 22, "last"),
    ],
)
def test_a_model_is_the_papers_and_read_at_its_representative_token(model, source, layers, token):
    found = run(model=model)
    assert (found.model.source, found.model.num_layers) == (source, layers)
    assert found.model.representative_token == token
    assert (found.head_in_force, found.model.head_dropout, found.model.rep_norm) == ("concat", 0.3, "none")
    assert (found.model.last_layer, found.model.train_final_norm) == ("library", False)


def test_a_step_is_timed_over_a_hundred_after_twenty():
    protocol = run(protocol="timing").protocol
    assert (protocol.warmup_steps, protocol.max_steps, protocol.evaluate) == (20, 100, False)


def test_a_search_holds_out_at_most_two_thousand_rows_of_train():
    assert run(protocol="search").protocol.holdout == 2000


@pytest.mark.parametrize("name", table_names())
def test_every_table_and_figure_has_the_papers_seeds(name):
    assert load_table(name).seeds == (0, 42, 100)


AVERAGES = {
    "table1": {"average": CLASSIFIED},
    "table2": {"average": PAIRS},
    "table4": {"speedup": ("speedup_sst2", "speedup_qnli")},  # the tasks of Figures 4 and 5
}


@pytest.mark.parametrize("name", table_names())
def test_an_average_is_over_the_papers_columns(name):
    found = {column.key: column.mean_of for column in load_table(name).columns if column.mean_of}
    assert found == AVERAGES.get(name, {})
