"""What protocols cut from the rows: subsets, held-out parts, texts beyond the maximum length."""

from __future__ import annotations

from layertune.config.compose import compose_run
from layertune.models import load_tokenizer
from layertune.tasks import load_task


def loaded(tmp_path, *overrides):
    run = compose_run(
        "model=tiny_bert",
        "task=demo",
        "method=full",
        f"outputs_dir={tmp_path}",
        "tracking=disabled",
        *overrides,
    )
    return load_task(run, *load_tokenizer(run.model))


def test_a_cut_is_a_subset_balanced_and_the_same_for_all_seeds(tmp_path):
    data, other = (loaded(tmp_path, "protocol=smoke", f"seed={seed}") for seed in (0, 42))
    assert data.provenance.counts == {"train": 64, "demo": 64}
    assert "subset" in data.provenance.status
    assert data.train.store.labels.mean() == 0.5
    assert data.provenance.fingerprint_sha256 == other.provenance.fingerprint_sha256


def test_a_search_evaluates_on_a_tenth_of_train_that_is_not_trained_on(tmp_path):
    data = loaded(tmp_path, "protocol=search")
    assert data.provenance.counts == {"train": 1800, "demo": 200}
    held = data.evals["demo"].store
    tokens = {
        tuple(data.train.store.ids[a:b])
        for a, b in zip(data.train.store.offsets, data.train.store.offsets[1:], strict=False)
    }
    assert not any(
        tuple(held.ids[a:b]) in tokens for a, b in zip(held.offsets, held.offsets[1:], strict=False)
    )


def test_rows_cut_to_the_maximum_length_are_counted(tmp_path):
    assert loaded(tmp_path, "protocol=smoke", "task.max_length=8").provenance.truncated_fraction == 1.0
