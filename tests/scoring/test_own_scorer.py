"""A scorer of one's own, by dotted path: its kept scores are forgotten when its file changes."""

from __future__ import annotations

import sys

import pytest
from tiny_runs import compose_tiny

from layertune.models import load_tokenizer
from layertune.scoring.cached import score_key, scored_rows
from layertune.tasks import load_task


def test_scores_of_a_changed_scorer_are_not_taken_from_disk(tmp_path, monkeypatch):
    module = tmp_path / "scorer_of_mine.py"
    module.write_text("def first(model, batches):\n    return None\n\n\nsecond = first\n")
    monkeypatch.syspath_prepend(str(tmp_path))

    def key(scorer):
        run = compose_tiny(tmp_path, f"method.scorer={scorer}")
        data = load_task(run, *load_tokenizer(run.model))
        return score_key(run, data, scored_rows(len(data.train), run.scoring))

    before = key("scorer_of_mine.first")
    assert key("scorer_of_mine.first") == before
    assert key("scorer_of_mine.second") != before
    module.write_text(module.read_text() + "# changed\n")
    assert key("scorer_of_mine.first") != before
    sys.modules.pop("scorer_of_mine")


@pytest.mark.parametrize("name", ["cosine", "feature_variance"])
def test_the_key_of_a_known_scorer_holds_its_name_alone(name):
    from layertune.scoring.cached import scorer_key

    assert scorer_key(name) == name
