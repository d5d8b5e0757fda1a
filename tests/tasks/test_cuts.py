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


def test_a_foreign_task_is_scored_on_its_evaluation_split_and_training_reads_the_own_task_alone(tmp_path):
    sizes = {"olid": {"train": 12, "test": 5}, "dynahate": {"train": 14, "test": 7}}
    for task, splits in sizes.items():
        (tmp_path / task).mkdir()
        for split, size in splits.items():
            rows = "".join(f"{task} {split} {i},{i % 2}\n" for i in range(size))
            (tmp_path / task / f"{split}.csv").write_text(f"sentence,label\n{rows}")
    for pair, counts in {
        "olid_dynahate": {"train": 12, "olid": 5, "dynahate": 7},
        "dynahate_olid": {"train": 14, "dynahate": 7, "olid": 5},
    }.items():
        data = loaded(tmp_path, f"task={pair}", f"data_dir={tmp_path}")
        assert data.provenance.counts == counts
        assert data.each_epoch == pair.split("_")[0]
