"""Every score on real pretrained weights and real sentences, against double loops."""

from __future__ import annotations

import random

import naive
import numpy as np
import pytest
import torch

from layertune.config import ModelSpec
from layertune.models import Backbone, ConcatHead, TaskModel, load_model, load_tokenizer
from layertune.models.heads import initialise
from layertune.scoring import SCORERS
from layertune.scoring.adaptive import adaptive_scores
from layertune.selection import SELECTORS
from layertune.tasks import Batch, TokenStore

pytestmark = pytest.mark.slow


def rows_of(path, columns: list[str], limit: int) -> tuple[list[tuple[str, ...]], list[str]]:
    import pyarrow.parquet as parquet

    table = parquet.read_table(path).slice(0, limit).to_pydict()
    return list(zip(*(table[column] for column in columns), strict=True)), [str(x) for x in table["label"]]


def batches_of(tokenizer, rows, labels, size: int) -> list[Batch]:
    names = sorted(set(labels))
    order = sorted(range(len(rows)), key=lambda row: sum(map(len, rows[row])))  # little padding, quick passes
    rows, labels = [rows[row] for row in order], [labels[row] for row in order]
    batches = []
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        encoded = tokenizer(
            *(list(column) for column in zip(*part, strict=True)),
            padding=True,
            truncation=True,
            max_length=128,
        )
        batches.append(
            Batch(
                torch.tensor(encoded["input_ids"]),
                torch.tensor(encoded["attention_mask"]),
                torch.tensor([names.index(label) for label in labels[start : start + size]]),
                torch.tensor(encoded["token_type_ids"]) if len(part[0]) == 2 else None,
                np.arange(start, start + len(part)),
            )
        )
    return batches


@pytest.fixture(scope="module")
def real(gte_small):
    spec = ModelSpec(name="gte_small", path=str(gte_small), num_layers=12)
    backbone = Backbone(load_model(spec), "first")
    head = ConcatHead(12, 384, 6, 0.3)
    initialise(head, 0)
    return TaskModel(backbone, head, "classification").eval(), load_tokenizer(spec)[0]


@pytest.fixture(scope="module")
def trec(real, shared_data):
    return batches_of(real[1], *rows_of(shared_data / "trec" / "train.parquet", ["sentence"], 64), size=16)


@pytest.fixture(scope="module")
def mrpc(real, shared_data):
    path = shared_data / "mrpc" / "train.parquet"
    return batches_of(real[1], *rows_of(path, ["sentence1", "sentence2"], 24), size=8)


@pytest.mark.parametrize("task", ["trec", "mrpc"])
def test_similarities_equal_the_double_loop(real, task, request):
    model, batches = real[0], request.getfixturevalue(task)
    with torch.no_grad():
        rows = naive.states_of(model, batches, "representative")
    for name, similarity in (("cosine", naive.cosine_of), ("euclidean", naive.distance_of)):
        expected, matrix = naive.between_layers(rows, similarity)
        scores = SCORERS[name](model, batches)
        assert scores.values == pytest.approx(expected, abs=1e-5, rel=0)
        np.testing.assert_allclose(scores.matrix, matrix, atol=1e-5, rtol=0)


@pytest.mark.parametrize("tokens", ["all", "representative"])
@pytest.mark.parametrize("task", ["trec", "mrpc"])
def test_single_layer_scores_equal_the_loop_over_tokens(real, task, tokens, request):
    model, batches = real[0], request.getfixturevalue(task)[:2]
    with torch.no_grad():
        rows = naive.states_of(model, batches, tokens)
    for name, loop in (("io_cosine", naive.io_cosine), ("feature_variance", naive.feature_variance)):
        got = SCORERS[name](model, batches, tokens=tokens).values
        assert got == pytest.approx(loop(rows), abs=1e-5, rel=0)


def test_gradient_norms_equal_a_plain_backward_pass(real, trec):
    model, batches = real[0], trec[:2]
    for batch in batches:  # its head was drawn from seed 0 as well
        (model(batch).loss * len(batch) / sum(map(len, batches))).backward()
    norms = []
    for block in model.backbone.layers:
        squares = [parameter.grad.double().square().sum() for parameter in block.parameters()]
        norms.append(float(torch.stack(squares).sum().sqrt()))
    model.zero_grad()
    scores = SCORERS["gradient_norm"](model, batches)
    assert scores.values == pytest.approx(norms, rel=1e-4)


def test_few_examples_choose_what_all_choose(real, shared_data):
    rows, labels = rows_of(shared_data / "trec" / "train.parquet", ["sentence"], 300)
    encoded = real[1]([sentence for (sentence,) in rows])
    ids = [np.asarray(row, dtype=np.int32) for row in encoded["input_ids"]]
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in ids])])
    store = TokenStore(np.concatenate(ids), offsets, None, np.zeros(len(labels), np.int64), 0, 0, 128)
    every = [store.batch(rows) for rows in np.array_split(np.argsort(store.lengths, kind="stable"), 12)]
    counts = []
    for name, selectors in (
        ("cosine", ("lowest", "highest", "block_highest", "block_lowest")),
        ("io_cosine", ("highest",)),
    ):
        full = SCORERS[name](real[0], every)
        for selector in selectors:
            few = adaptive_scores(SCORERS[name], real[0], store, selector, 3)
            choose, rng = SELECTORS[selector], random.Random(0)
            assert choose(12, 3, few.values, rng) == choose(12, 3, full.values, rng), (name, selector)
            counts.append(few.examples)
    assert min(counts) < len(store)
