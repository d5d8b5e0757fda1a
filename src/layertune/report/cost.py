"""What a run should cost where no record says so: a model of computation and memory, and its assumptions.

One unit is one layer forward for one token. `layertune.report.estimate` turns units into seconds with the
records there are. Everything here is arithmetic on a configuration.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from layertune.config import RunConfig
from layertune.config.groups import group_file
from layertune.config.identity import GRADIENT_SCORERS, WEIGHT_SCORERS
from layertune.config.schema import ModelSpec
from layertune.config.schema_task import TaskSpec

ASSUMED_DEVICE = "a GPU (assumed)"
ASSUMED_FLOPS = 10e12  # sustained in fp32 on short sentences at batch 32; an assumption, not a measurement
ASSUMED_ROWS = 10_000  # of a task whose YAML has no counts
TOKENS = {"sentence": 25.0, "pair": 45.0, "generation": 60.0}  # of an example, where TOKENS_OF has no number
# Word pieces of BERT per training example, cut to the task's length; means of up to 3,000 rows.
TOKENS_OF = {
    "cola": 11.3, "cr": 23.8, "dynahate": 24.5, "e2e": 62.3, "imdb": 208.4, "mnli": 38.0, "mpqa": 5.3,
    "mr": 27.5, "mrpc": 53.2, "olid": 34.2, "qnli": 49.3, "qqp": 30.6, "rte": 70.2, "snli": 26.1,
    "sst2": 25.3, "sst2_glue": 13.5, "sst5": 24.9, "stsb": 27.7, "subj": 30.1, "trec": 13.4,
}  # fmt: skip
# A step of RECAP in steps of full fine-tuning, as measured on gte_small: the masks of gradients and the odd
# sizes of the pruned matrices cost more than the pruning saves.
RECAP_STEP = 1.4
WHOLE_LAYERS = ("selected", "layers", "head_only")  # kinds of methods below whose layers nothing trains
LONGEST = 4.0  # the longest example of a batch has so many times the mean number of tokens


@dataclass(frozen=True)
class Shape:
    """Sizes of a model, in numbers."""

    hidden: int
    layer_parameters: float
    parameters: float  # of the whole model


_BASE = 7.09e6  # 12 h² + 13 h at h = 768
_SHAPES = {
    "bert": Shape(768, _BASE, 109.5e6),
    "bert_cased": Shape(768, _BASE, 108.3e6),
    "roberta": Shape(768, _BASE, 124.6e6),
    "deberta": Shape(768, 8.27e6, 138.6e6),
    "deberta_v3": Shape(768, _BASE, 183.8e6),
    "electra": Shape(768, _BASE, 108.9e6),
    "mpnet": Shape(768, _BASE, 109.5e6),
    "gpt2": Shape(768, _BASE, 124.4e6),
    "gemma2_2b": Shape(2304, 77.9e6, 2614e6),
    "tinyllama": Shape(2048, 44.0e6, 1100e6),
    "smollm2": Shape(576, 3.54e6, 134.5e6),
    "gte_small": Shape(384, 1.77e6, 33.4e6),
    "minilm_l6": Shape(384, 1.77e6, 22.7e6),
}


def shape_of(model: str) -> Shape | None:
    """Return the sizes of a model by its name; None where nothing in this repository says them."""
    if model in _SHAPES:
        return _SHAPES[model]
    random: Mapping[str, Any] = (group_file("model", model) or {}).get("random_config") or {}
    hidden = random.get("hidden_size", random.get("n_embd"))
    if hidden is None:
        return None
    inner = random.get("intermediate_size", 4 * hidden)
    layers = int(random.get("num_hidden_layers") or random["n_layer"])
    layer = float(4 * hidden * hidden + 2 * hidden * inner + 9 * hidden + inner)
    positions = int(random.get("max_position_embeddings") or random["n_positions"])
    return Shape(hidden, layer, layers * layer + hidden * (random["vocab_size"] + positions + 2))


def tokens_per_example(task: TaskSpec) -> float:
    """Return the mean length of an example in tokens: measured for the tasks of the paper, else assumed."""
    kind = "generation" if task.kind == "generation" else "pair" if task.is_pair else "sentence"
    return min(TOKENS_OF.get(task.data_name, TOKENS[kind]), float(task.max_length))


def training_rows(run: RunConfig) -> int:
    """Return the training rows of a run, from the counts of its task and the limits of its protocol."""
    rows = run.task.counts.get(run.task.train_split, ASSUMED_ROWS)
    if run.protocol.holdout is not None:
        rows -= min(rows // 10, run.protocol.holdout)
    return min(rows, run.protocol.train_examples or rows)


def trained_examples(run: RunConfig) -> float:
    """Return how many examples pass through training, all epochs together."""
    assert run.train.epochs is not None and run.train.batch_size is not None, "a run is resolved"
    if run.protocol.max_steps is not None:
        return float((run.protocol.max_steps + (run.protocol.warmup_steps or 0)) * run.train.batch_size)
    epochs = run.train.epochs
    if run.method.kind == "recap" and run.method.options.get("source_budget"):
        epochs = 2 * (epochs + 1)
    return float(epochs * training_rows(run))


def step_units(run: RunConfig, lowest: float | None) -> float:
    """Return the cost of training on one token: L + (L - l + 1 - 1/4) + k (full 3 L, LoRA about 2 L).

    Args:
        run: its method, k and mode count.
        lowest: lowest trained layer l, counted from 1; 0 for the embeddings; None where it is not known.
    """
    layers, kind, k = run.model.num_layers, run.method.kind, _chosen(run)
    if kind == "full":
        return 3.0 * layers
    if kind in ("lora", "adapters", "prefix", "ia3"):
        return 2.0 * layers
    if kind == "lift":  # one layer at a time, each equally often
        return layers + (layers + 1) / 2 - 0.25 + 1
    if kind == "lisa":
        return 2.0 * layers + int(run.method.options["layers"])
    if kind == "slimfit":
        return 2.0 * layers + (1 - float(run.method.options["freezing_rate"])) * layers
    if kind == "recap":
        return RECAP_STEP * 3.0 * layers + _recap_scores(run)
    if kind in WHOLE_LAYERS and k is not None:
        above = layers - (lowest if lowest is not None else lowest_layer(run)) + 1
        forward = above if run.train.mode == "fast" else layers
        return forward + above - 0.25 + k
    if kind in WHOLE_LAYERS:
        return float(layers if run.train.mode == "published" else 0)
    return 3.0 * layers  # a method of one's own: at most full fine-tuning


def _recap_scores(run: RunConfig) -> float:
    """Return the cost of RECAP's scores per trained token: mini-batches forward and back in each phase."""
    assert run.train.batch_size is not None, "a run is resolved"
    options = run.method.options
    batches = 10 * (int(options["rounds"]) + 1) * (int(options["prune_steps"]) + 1)
    return 3.0 * run.model.num_layers * batches * run.train.batch_size / max(1.0, trained_examples(run))


def once_units(run: RunConfig, lowest: float | None) -> float:
    """Return the cost per token of filling the cache of frozen layers, once: l - 1 under train=fast."""
    if run.train.mode != "fast" or run.method.kind not in WHOLE_LAYERS:
        return 0.0
    if _chosen(run) is None:
        return float(run.model.num_layers)
    return (lowest if lowest is not None else lowest_layer(run)) - 1.0


def scoring_units(run: RunConfig) -> float:
    """Return the cost per token of scoring the layers: a pass forward, for gradients and back."""
    if run.method.scorer is None or run.method.scorer in WEIGHT_SCORERS:
        return 0.0
    return run.model.num_layers * (3.0 if run.method.scorer in GRADIENT_SCORERS else 1.0)


def evaluated_examples(run: RunConfig) -> float:
    """Return how many examples are evaluated: each epoch the own split, twice each foreign one.

    A generated output counts as its beams, at the mean length of an example.
    """
    epochs = run.train.epochs or 0
    if not run.protocol.evaluate:
        return 0.0
    if run.task.kind == "generation":
        dev, test = run.task.meanings.get("validation", 0), run.task.meanings.get("test", 0)
        dev, test = min(dev, run.protocol.dev_meanings or dev), min(test, run.protocol.eval_meanings or test)
        return float(run.task.decoding.num_beams * (epochs * dev + 2 * test))
    if run.protocol.holdout is not None:
        return float(epochs * min(run.task.counts.get("train", ASSUMED_ROWS) // 10, run.protocol.holdout))
    own = _evaluation_rows(run.task, run)
    return float(epochs * own + 2 * sum(_evaluation_rows(task, run) for task in run.task.foreign.values()))


def _named(run: RunConfig) -> list[int]:
    """Return the layers that `method=layers` names; none for every other method."""
    return list(run.method.options.get("layers") or ()) if run.method.kind == "layers" else []


def _chosen(run: RunConfig) -> int | None:
    """Return how many whole layers a method of `WHOLE_LAYERS` trains; None for the head alone."""
    return len(_named(run)) or run.method.k


def lowest_layer(run: RunConfig) -> float:
    """Return the lowest trained layer to expect; unknown selections count as k layers drawn at random."""
    if named := _named(run):
        return float(min(named))
    layers, k, selector = run.model.num_layers, run.method.k or 1, run.method.selector or ""
    if selector == "top":
        return layers - k + 1.0
    if selector == "bottom":
        return 1.0
    if selector.startswith("block"):  # the middle of the first block
        return (layers / k + 1) / 2
    return (layers + 1) / (k + 1)


def memory_bytes(model: ModelSpec, run: RunConfig, lowest: float | None) -> float | None:
    """Return the peak memory of training in fp32, None for a model of unknown size.

    Weights; gradient and two moments of what trains; activations per token and layer, which fit the
    measurements for BERT-base at 32 x 128 tokens within 5 %: 100 h bytes where a layer trains, 73 h where
    gradients pass through.
    """
    shape = shape_of(model.name)
    if shape is None:
        return None
    assert run.train.batch_size is not None, "a run is resolved"
    layers, kind, k = model.num_layers, run.method.kind, _chosen(run)
    if kind in WHOLE_LAYERS and k is not None:
        trained, reached = k, layers - (lowest if lowest is not None else lowest_layer(run)) + 1
        parameters = k * shape.layer_parameters
    elif kind in WHOLE_LAYERS:
        trained, reached, parameters = 0, 0.0, 0.0
    elif kind in ("lora", "adapters", "prefix", "ia3"):
        trained, reached, parameters = 0, float(layers), 0.0
    elif kind in ("lift", "lisa"):
        trained = 1 if kind == "lift" else int(run.method.options["layers"])
        reached, parameters = float(layers), layers * shape.layer_parameters
    else:
        trained, reached, parameters = layers, float(layers), shape.parameters
    rows = run.train.micro_batch or run.train.batch_size
    tokens = rows * min(float(run.task.max_length), LONGEST * tokens_per_example(run.task))
    activations = tokens * shape.hidden * (100 * trained + 73 * (reached - trained))
    return 4 * shape.parameters + 12 * parameters + activations


def _evaluation_rows(task: TaskSpec, run: RunConfig) -> int:
    rows = task.counts.get(task.eval_split, ASSUMED_ROWS)
    return min(rows, run.protocol.eval_examples or rows)
