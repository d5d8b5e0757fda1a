"""On a CUDA device (make test-gpu): what the CPU computes, half precision, repeatable bits, honest meters."""

from __future__ import annotations

import pytest
import torch
from device_cases import (
    BASE_SIZE,
    MODELS,
    assert_bf16_holds_on,
    assert_equal_on,
    assert_measured_on,
    first_step,
    options_of,
)
from tiny_runs import NO_DROPOUT, Prepared, assert_same, compose_tiny, prepare, weights

from layertune.config import DecodingSpec, TaskSpec
from layertune.config.groups import group_names
from layertune.errors import Interruption
from layertune.evaluation.generation import generate
from layertune.models import build_model, load_tokenizer
from layertune.pipeline import execute
from layertune.records import Store
from layertune.runtime import prepare_runtime, set_determinism
from layertune.tasks import Split
from layertune.tasks.meanings import group_meanings
from layertune.tasks.prompts import encode_generation
from layertune.tasks.rows import unlabelled
from layertune.training import loop, train

DEVICE = "cuda"

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device"),
]

# A random GPT-2 whose outputs differ: an output layer of its own, and weights large enough to say something.
UNTIED = ("+model.random_config.tie_word_embeddings=false", "+model.random_config.initializer_range=0.5")


@pytest.fixture(autouse=True)
def _defaults_afterwards(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # before cuBLAS is first used in this process
    yield
    set_determinism(False)


@pytest.fixture
def prepared(tmp_path):
    """Prepare a run on a device; each in folders of its own, so that no scores are shared."""

    def make(device: str, *overrides: str, folder: str = "") -> Prepared:
        return prepare(compose_tiny(tmp_path / (folder or device), f"train.device={device}", *overrides))

    return make


def test_beam_search_on_the_device_equals_the_cpu(tmp_path):
    options = ("model=tiny_gpt2", *UNTIED)
    rows = unlabelled(([f"name[{'the pub ' * (i % 5)}], food[{i}]" for i in range(24)], ["the pub"] * 24))
    found = {}
    for device in (DEVICE, "cpu"):
        run = compose_tiny(tmp_path / device, f"train.device={device}", *options)
        runtime, (tokenizer, _) = prepare_runtime(run), load_tokenizer(run.model)
        model = build_model(run, 0, "generation").to(runtime.device)
        spec = TaskSpec(name="e2e", kind="generation", max_length=128)
        split = Split("e2e", "test", encode_generation(rows, tokenizer, spec), group_meanings(rows))
        found[device] = generate(model, split, tokenizer, DecodingSpec(num_beams=10), runtime)
    assert found[DEVICE] == found["cpu"] and len(set(found["cpu"])) > 5


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("method", group_names("method"))
def test_the_device_computes_what_the_cpu_computes(prepared, method, model):
    assert_equal_on(DEVICE, prepared, method, model)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("method", group_names("method"))
def test_bf16_trains_and_its_record_holds(tmp_path, method, model):
    assert_bf16_holds_on(DEVICE, tmp_path, method, model)


@pytest.mark.parametrize("method", group_names("method"))
def test_bf16_at_the_size_of_bert_base_is_measured(tmp_path, method, record_property):
    training = assert_measured_on(DEVICE, tmp_path, method, *BASE_SIZE).training
    record_property("milliseconds_per_step", 1000 * training.seconds_per_step_median)  # pytest --junitxml
    record_property("peak_memory_bytes", training.peak_memory_bytes)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("method", ["full", "low_k", "grad_norm_k"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_deterministic_runs_of_one_seed_are_bit_identical(prepared, method, model, precision):
    options = (
        *options_of(method, model),
        "train.deterministic=true",
        "train.learning_rate=1e-3",
        "train.epochs=2",
        f"train.precision={precision}",
    )
    first, second = (prepared(DEVICE, *options, folder=name) for name in ("first", "second"))
    assert first.prep.scores is None or first.prep.scores.values == second.prep.scores.values
    outcomes = [train(*case.parts) for case in (first, second)]  # dropout is on
    assert [e["loss"] for e in outcomes[0].history] == [e["loss"] for e in outcomes[1].history]
    assert [e["metrics"] for e in outcomes[0].history] == [e["metrics"] for e in outcomes[1].history]
    assert_same(weights(first.model), weights(second.model))


@pytest.mark.parametrize("model", MODELS)
def test_activation_checkpointing_gives_the_same_gradients(prepared, model):
    options = (*options_of("top_k", model), *NO_DROPOUT[model])
    (loss, plain), (other_loss, saving) = (
        first_step(prepared(DEVICE, *options, f"train.activation_checkpointing={on}"))
        for on in ("false", "true")
    )
    assert loss == pytest.approx(other_loss, rel=1e-6)
    assert plain.keys() == saving.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(saving[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_micro_batches_add_up_to_the_whole_batch(prepared):
    options = (*options_of("full", "tiny_bert"), *NO_DROPOUT["tiny_bert"], "train.batch_size=16")
    (loss, whole), (other_loss, split) = (
        first_step(prepared(DEVICE, *options, f"train.micro_batch={size}")) for size in ("null", "4")
    )
    assert loss == pytest.approx(other_loss, rel=1e-5)
    for name, gradient in whole.items():
        torch.testing.assert_close(split[name], gradient, rtol=1e-3, atol=1e-5, msg=name)


def test_a_record_names_the_device_and_measures_its_memory_and_every_step(tmp_path):
    run = compose_tiny(
        tmp_path,
        "method=full",
        f"train.device={DEVICE}",
        "protocol=timing",
        "protocol.warmup_steps=2",
        "protocol.max_steps=5",
        "train.batch_size=16",
    )
    record = execute(run, Store(run.results_dir, run.outputs_dir))
    assert record.env.device_name == torch.cuda.get_device_name()
    assert record.env.device_memory_bytes == torch.cuda.get_device_properties(0).total_memory
    training = record.training
    # At least weights, gradients and two moments in fp32; a tiny model stays far below a gibibyte.
    assert 4 * 4 * record.model.parameters < training.peak_memory_bytes < 1 << 30
    assert training.steps == 7
    assert 0 < 5 * training.seconds_per_step_median < 10 * training.seconds


def test_a_stopped_run_goes_on_with_the_device_s_random_state(prepared, monkeypatch):
    options = (*options_of("low_k", "tiny_bert"), "train.deterministic=true", "train.epochs=2")
    kept = "checkpoint.every_steps=1"
    whole = prepared(DEVICE, *options, folder="whole")
    expected = train(*whole.parts)
    real = loop._Loop._step

    def stops(self, indices):
        loss = real(self, indices)
        self.checkpoint._stop_asked = self.step == 3
        return loss

    monkeypatch.setattr(loop._Loop, "_step", stops)
    with pytest.raises(Interruption):
        train(*prepared(DEVICE, *options, kept).parts)
    monkeypatch.setattr(loop._Loop, "_step", real)
    torch.rand(3, device=DEVICE)
    resumed = prepared(DEVICE, *options, kept)
    outcome = train(*resumed.parts)
    assert [e["loss"] for e in outcome.history] == [e["loss"] for e in expected.history]
    assert_same(weights(resumed.model), weights(whole.model))
