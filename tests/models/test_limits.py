from __future__ import annotations

import pytest
from tiny_models import any_model, tiny_model

from layertune.errors import ModelError
from layertune.models.limits import num_embeddings, refuse_what_does_not_fit, usable_positions


@pytest.mark.parametrize(
    ("model_type", "changes", "positions"),
    [
        ("bert", {}, 40),
        ("gpt2", {}, 40),
        ("llama", {"num_key_value_heads": 2}, 40),
        ("roberta", {}, 38),  # its padding id is 1: positions 0 and 1 are not for tokens
        ("xlm-roberta", {}, 38),
        ("camembert", {"pad_token_id": 3}, 36),
        ("mpnet", {}, 38),
        ("ibert", {}, 38),
        ("opt", {"ffn_dim": 64, "word_embed_proj_dim": 32}, 40),  # its table has two rows more
        ("xlnet", {"vocab_size": 60, "d_model": 32, "n_head": 4, "d_head": 8, "n_layer": 4}, None),
        ("bloom", {"vocab_size": 60, "hidden_size": 32, "n_layer": 4, "n_head": 4}, None),
    ],
)
def test_usable_positions_are_those_that_tokens_can_take(model_type, changes, positions):
    model = any_model(model_type, **changes)
    assert usable_positions(model) == positions
    assert num_embeddings(model) == 60


def test_ids_and_lengths_beyond_the_embeddings_are_refused():
    model = tiny_model("roberta")
    refuse_what_does_not_fit(model, 59, 38)
    with pytest.raises(ModelError, match="token 60"):
        refuse_what_does_not_fit(model, 60, 38)
    with pytest.raises(ModelError, match="38 positions"):
        refuse_what_does_not_fit(model, 59, 39)
