from __future__ import annotations

from dataclasses import asdict

import pytest
from tiny_models import DECODERS, ENCODERS, tiny_backbone

from layertune.errors import ModelError
from layertune.models.architectures import (
    ARCHITECTURES,
    architecture_of,
    refuse_other_than_one_stack,
    type_named_by,
)


@pytest.mark.parametrize("model_type", ENCODERS + DECODERS)
def test_every_path_of_the_table_leads_to_a_module_of_every_block(model_type):
    sites = asdict(architecture_of(model_type).sites)
    maps = [value for name, value in sites.items() if name not in ("fused", "takes_cache", "ffn_in")]
    for block in tiny_backbone(model_type).layers:
        for path in (*maps, *sites["ffn_in"]):
            assert block.get_submodule(path) is not block
    assert hasattr(tiny_backbone(model_type).model, architecture_of(model_type).final_norm or "config")


def test_every_architecture_of_the_models_that_ship_is_in_the_table():
    assert set(ENCODERS + DECODERS) <= set(ARCHITECTURES)
    assert architecture_of("qwen3") == architecture_of("never heard of")


@pytest.mark.parametrize(
    ("hub_id", "model_type"),
    [
        ("microsoft/deberta-base", "deberta"),
        ("microsoft/deberta-v3-base", "deberta-v2"),
        ("microsoft/DeBERTa-v2-xlarge", "deberta-v2"),
        ("microsoft/mpnet-base", "mpnet"),
        ("google-bert/bert-base-uncased", None),
    ],
)
def test_a_hub_id_names_its_architecture_by_the_longest_name_that_fits(hub_id, model_type):
    assert type_named_by(hub_id) == model_type


def test_encoders_with_decoders_and_composites_are_refused():
    from transformers import AutoConfig

    refuse_other_than_one_stack(AutoConfig.for_model("bert"), "a model")
    for model_type in ("t5", "gemma3", "clip", "convnext"):
        with pytest.raises(ModelError, match="not a single stack"):
            refuse_other_than_one_stack(AutoConfig.for_model(model_type), "a model")
