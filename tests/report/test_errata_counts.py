"""The parameter counts and speed-ups of errata.yaml, recomputed from the models' shapes and a cost model."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

import pytest

PEFT = ["lora", "adapters", "prefix", "ia3"]

# Shapes of BERT-base and GPT-2 small (L=12, H=768, F=3072), counted with their biases.
L, H, F = 12, 768, 3072
LAYER = 4 * (H * H + H) + (H * F + F) + (F * H + H) + 2 * 2 * H
HEAD = (L * H) * H + H + 2 * H + 2
POOLER = H * H + H
UNCASED, CASED = ((vocabulary + 512 + 2 + 2) * H for vocabulary in (30522, 28996))
GPT2 = (50257 + 1024) * H + L * LAYER + 2 * H
LORA_RANK = L * 2 * (H + H)  # query and value
PREFIX = L * 2 * H
IA3 = L * (H + H + F)


def adapters(width: int) -> int:
    return L * 2 * (H * width + width + width * H + H)


def rounded(number: Decimal | float, decimals: int) -> float:
    return float(Decimal(str(number)).quantize(Decimal(1).scaleb(-decimals), ROUND_HALF_UP))


def millions(count: int, decimals: int) -> float:
    return rounded(Decimal(count) / 1_000_000, decimals)


def speedup(lowest: float, trained: int) -> float:
    """Cost model: L forward, L - lowest backward, one weight gradient per trained layer; full = 35."""
    return rounded(35 / (L + (L - lowest) + trained), 2)


def minus_head(t: Any, row: str) -> float:
    return rounded((t(4, row, "average", "trainable_parameters") * 1_000_000 - HEAD) / LAYER, 2)


def blocks(t: Any, row: str) -> float:
    return rounded(t(3, row, "e2e", "trainable_parameters") * 1_000_000 / LAYER, 2)


def scaled(t: Any) -> dict:
    factor = Decimal("124.4") / Decimal("116.6")
    return {
        f"{row}_scaled": rounded(t(4, row, "average", "trainable_parameters") * factor, 2) for row in PEFT
    }


RECOMPUTED: dict[str, Callable[[Any], Mapping[str, Decimal | float | int]]] = {
    "checkpoint_cased": lambda t: {
        "uncased_with_pooler": UNCASED + L * LAYER + POOLER + HEAD,
        "cased_with_pooler": CASED + L * LAYER + POOLER + HEAD,
        "uncased_without_pooler": UNCASED + L * LAYER + HEAD,
        "cased_without_pooler": CASED + L * LAYER + HEAD,
    },
    "table4_parameters_three_layers": lambda t: {"three_layers_and_head": 3 * LAYER + HEAD},
    "table3_parameters": lambda t: {
        "full": GPT2, "three_blocks": 3 * LAYER, "three_blocks_and_final_norm": 3 * LAYER + 2 * H,
    },
    "table4_parameters_io": lambda t: {
        "k_3": 3 * LAYER + HEAD,
        "k_4": 4 * LAYER + HEAD,
        "excess_over_k_3": 1_000_000 * t(4, "io", "average", "trainable_parameters") - (3 * LAYER + HEAD),
    },
    "table4_parameters_lora": lambda t: {"rank_16": 16 * LORA_RANK, "rank_50": 50 * LORA_RANK},
    "table4_parameters_without_head": lambda t: {
        "adapters_96": adapters(96), "prefix_20": 20 * PREFIX, "ia3": IA3,
        "adapters_96_with_head": adapters(96) + HEAD, "prefix_20_with_head": 20 * PREFIX + HEAD,
        "ia3_with_head": IA3 + HEAD, "lora_16_with_head": 16 * LORA_RANK + HEAD,
    },
    "table3_parameters_peft": lambda t: {
        **scaled(t), "lora_16": 16 * LORA_RANK, "adapters_103": adapters(103), "adapters_104": adapters(104),
        "prefix_23": 23 * PREFIX, "prefix_24": 24 * PREFIX, "ia3": IA3,
        "ia3_four_maps": L * (3 * H + H + F + F),  # fused attention, its output, both feed-forward maps
    },
    "table4_parameters_dynamic": lambda t: {
        **{f"{row}_layers": minus_head(t, row) for row in ("lift", "recap", "slimfit")},
        "lift_one_layer_and_head": LAYER + HEAD,
    },
    "table3_parameters_dynamic": lambda t: {
        **{f"{row}_blocks": blocks(t, row) for row in ("lift", "recap", "slimfit")}, "five_blocks": 5 * LAYER,
    },
    "table4_speedup_layers": lambda t: {
        "random_three": speedup((L + 1) / 4, 3), "lowest_layer_2": speedup(2, 3),
        "bottom_three": speedup(1, 3), "top_three": speedup(10, 3),
    },
    "table4_speedup_peft": lambda t: {"upper_bound": speedup(1, 0)},
    "table4_speedup_lift": lambda t: {"one_layer_at_a_time": speedup(sum(range(1, L + 1)) / L, 1)},
}  # fmt: skip


def test_every_erratum_about_counts_and_speed_ups_is_recomputed(errata):
    about = {name for name in errata if name.startswith(("table3_", "table4_", "checkpoint_"))}
    assert set(RECOMPUTED) == about


@pytest.mark.parametrize("name", RECOMPUTED)
def test_what_follows_is_what_the_shapes_give(name, printed, errata):
    recomputed = {key: float(value) for key, value in RECOMPUTED[name](printed).items()}
    assert recomputed == pytest.approx(dict(errata[name].follows), abs=1e-9)


def test_a_printed_count_equals_its_derivation_where_the_erratum_says_so():
    """The printed digits of Table 3 and Table 4, from the shapes alone."""
    assert millions(UNCASED + L * LAYER + POOLER + HEAD, 1) == 116.6
    assert millions(3 * LAYER + HEAD, 1) == 28.3
    assert millions(3 * LAYER, 1) == millions(3 * LAYER + 2 * H, 1) == 21.3
    assert millions(GPT2, 1) == 124.4
    assert [millions(count, 1) for count in (adapters(96), 20 * PREFIX, IA3)] == [3.6, 0.4, 0.1]
    assert {p for p in range(1, 60) if millions(p * PREFIX, 1) == 0.4} == set(range(19, 25))


def test_no_other_checkpoint_or_pooler_prints_116_6():
    others = [CASED + L * LAYER + POOLER + HEAD, UNCASED + L * LAYER + HEAD, CASED + L * LAYER + HEAD]
    assert 116.6 not in [millions(count, 1) for count in others]


def test_no_power_of_two_rank_gives_loras_count():
    attention, feed_forward = L * (H + H), L * (H + F)
    extras = [0, POOLER, 2 * H + 2, POOLER + 2 * H + 2, HEAD]
    for rank, a, f, extra in itertools.product((4, 8, 16, 32, 64, 128), range(5), range(3), extras):
        assert millions(rank * (a * attention + f * feed_forward) + extra, 2) not in (1.84, 1.96)


def test_no_prefix_length_prints_0_43_and_no_bottleneck_3_84():
    assert 0.43 not in {millions(length * PREFIX, 2) for length in range(1, 100)}
    norms = L * 2 * 2 * H
    assert 3.84 not in {millions(adapters(m) + extra, 2) for m in range(1, 200) for extra in (0, norms)}


def test_the_io_excess_is_no_module(printed):
    excess = 1_000_000 * printed(4, "io", "average", "trainable_parameters") - (3 * LAYER + HEAD)
    modules = [H * H + H, H * F + F, F * H + H, POOLER, LAYER, 2 * H, HEAD, UNCASED]
    assert all(abs(excess - module) > 50_000 for module in modules)
