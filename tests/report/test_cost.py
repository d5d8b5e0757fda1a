"""The cost model against the measurements it stands for, and the amounts of work of each protocol by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from layertune.config import RunConfig
from layertune.config.compose import plain_run
from layertune.config.groups import looking_into
from layertune.report import estimate as cost


def bert(*overrides: str) -> RunConfig:
    return plain_run(
        ["model=bert", *([] if any("task=" in o for o in overrides) else ["task=sst2"]), *overrides]
    )


@pytest.mark.parametrize(
    ("words", "lowest", "speedup"),
    [  # over full fine-tuning's 36 units, as performance measurements of a 12-layer model printed them
        (["method=full"], 0, 1.00),
        (["method=low_k"], 10, 2.03),
        (["method=low_k"], 5, 1.58),
        (["method=low_k"], 4, 1.52),
        (["method=low_k"], 1, 1.35),
        (["method=lora"], 1, 1.50),
        (["method=low_k", "train=fast"], 10, 4.11),  # 36 / (3 + 2.75 + 3)
        (["method=low_k", "train=fast"], 5, 1.92),  # 36 / (8 + 7.75 + 3)
        (["method=layers", "method.layers=[5,9,12]"], None, 1.58),
        (["method=layers", "method.layers=[12,10,11]", "train=fast"], None, 4.11),
        (["method=head_only"], None, 3.00),
        (["method=lift"], 1, 1.87),  # 12 + 6.5 - 0.25 + 1 on average over the layers
    ],
)
def test_a_step_costs_what_was_measured(words: list[str], lowest: float | None, speedup: float) -> None:
    assert 36 / cost.step_units(bert(*words), lowest) == pytest.approx(speedup, abs=0.005)


def test_recap_takes_longer_than_full_fine_tuning_and_longest_on_few_rows() -> None:
    # SST-2: 1.4 steps of 36, and six phases of twenty batches of 32 rows beside five epochs of 6,920
    assert cost.step_units(bert("method=recap"), None) == pytest.approx(1.4 * 36 + 36 * 120 * 32 / (5 * 6920))
    few = cost.step_units(bert("method=recap", "protocol=study"), None)
    assert few == pytest.approx(1.4 * 36 + 36 * 120 * 32 / (5 * 1000))


@pytest.mark.parametrize(
    ("method", "lowest", "gigabytes"),
    [("full", 0, 5.5), ("low_k", 10, 1.7), ("low_k", 5, 2.8), ("low_k", 1, 3.6), ("lora", 1, 3.3)],
)
def test_memory_at_32_x_128_tokens_is_what_was_measured(method: str, lowest: float, gigabytes: float) -> None:
    run = bert("task=qnli", f"method={method}", "task.max_length=128", "train.batch_size=32")
    found = cost.memory_bytes(run, lowest)
    assert found is not None and found / 1e9 == pytest.approx(gigabytes, rel=0.06)


@pytest.mark.parametrize(
    ("words", "trained", "evaluated"),
    [
        (["task=sst2"], 5 * 6920, 5 * 872),
        (["task=sst2", "protocol=timing"], 120 * 32, 0),
        (["task=sst2", "protocol=study"], 5 * 1000, 5 * 872),
        (["task=sst2", "protocol=smoke"], 64, 64),
        (["task=cola", "protocol=search", "train.epochs=2"], 2 * (8551 - 855), 2 * 855),
        (["task=cola", "protocol=search", "protocol.every_epoch=false"], 5 * (8551 - 855), 855),
        (["task=sst2_imdb", "train.epochs=3"], 3 * 6920, 3 * 872 + 2 * 25000),
    ],
)
def test_protocols_say_how_much_is_trained_and_evaluated(
    words: list[str], trained: int, evaluated: int
) -> None:
    run = bert("method=full", *words)
    assert cost.trained_examples(run) == trained
    assert cost.evaluated_examples(run) == evaluated


def test_outputs_count_as_their_beams() -> None:
    run = plain_run(["model=gpt2", "task=e2e", "method=full"])
    assert cost.evaluated_examples(run) == 10 * (5 * 547 + 2 * 630)


def test_scores_and_caches_are_passes_over_the_rows() -> None:
    assert cost.scoring_units(bert("method=low_k")) == 12
    assert cost.scoring_units(bert("method=grad_norm_k")) == 36
    assert cost.scoring_units(bert("method=fisher_high_k")) == 36
    assert cost.scoring_units(bert("method=top_k")) == cost.scoring_units(bert("method=spectrum_high_k")) == 0
    assert cost.once_units(bert("method=low_k", "train=fast"), 10) == 9
    assert cost.once_units(bert("method=low_k"), 10) == 0
    assert cost.once_units(bert("method=head_only", "train=fast"), None) == 12


@pytest.mark.parametrize(
    ("method", "lowest"), [("top_k", 10), ("bottom_k", 1), ("block_high", 2.5), ("random_k", 3.25)]
)
def test_the_lowest_layer_to_expect(method: str, lowest: float) -> None:
    assert cost.lowest_layer(bert(f"method={method}")) == lowest


def test_sizes_are_those_of_the_architecture() -> None:
    h = 768
    layer = 4 * (h * h + h) + (h * 4 * h + 4 * h) + (4 * h * h + h) + 4 * h  # attention, FFN, two LayerNorms
    sizes = cost.sizes_of("bert")
    assert sizes is not None and sizes.layer_parameters == pytest.approx(layer, rel=0.001)
    tiny = cost.sizes_of("tiny_bert")
    assert tiny is not None and tiny.layer_parameters == 4 * (32 * 32 + 32) + 2 * 32 * 64 + 64 + 32 + 4 * 32


def test_a_model_and_a_task_of_ones_own_say_their_sizes_in_their_files(tmp_path: Path) -> None:
    for group, text in {
        "model": "name: mine\ntitle: Mine\nsource: my/model\nnum_layers: 2\n"
        "sizes: {hidden: 8, layer_parameters: 1e3, parameters: 3e9}\n",
        "task": "name: mine\ntitle: Mine\nlabels: [bad, good]\nmean_tokens: 7.5\n",
    }.items():
        (tmp_path / group).mkdir()
        (tmp_path / group / "mine.yaml").write_text(text)
    with looking_into([tmp_path]):
        run = plain_run(["model=mine", "task=mine", "method=full"])
        assert cost.tokens_per_example(run.task) == 7.5
        # fp32 weights, and a gradient and two moments for each; two trained layers, 32 rows of 4 x 7.5 tokens
        assert cost.memory_bytes(run, None) == (4 + 12) * 3e9 + 32 * 4 * 7.5 * 8 * 100 * 2
    assert "sizes" not in run.identity().get("model", {}) and "mean_tokens" not in run.identity()["task"]
