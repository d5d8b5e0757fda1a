"""What a run makes of the card it finds, on a pretended one."""

from __future__ import annotations

import pytest
import torch
from tiny_runs import compose_tiny, prepare

from layertune.doctor import cuda_findings
from layertune.fast import cache
from layertune.runtime import prepare_runtime
from layertune.training import train

pytestmark = pytest.mark.pretended


def runtime_of(folder, *options):
    return prepare_runtime(compose_tiny(folder, "train.device=cuda", *options))


def test_a_card_without_bf16_says_so_and_computes_in_fp32(tmp_path, pretended, caplog):
    assert runtime_of(tmp_path, "train.precision=bf16").env.precision == "bf16"
    pretended.bf16 = False
    runtime = runtime_of(tmp_path, "train.precision=bf16")
    assert runtime.precision == runtime.env.precision == "fp32"
    assert "has no bf16" in caplog.text and "has no bf16" in runtime.env.precision_reason


def test_auto_takes_bf16_where_the_card_has_it(tmp_path):
    assert compose_tiny(tmp_path, "train.device=cuda", "train.precision=auto").train.precision == "bf16"


def test_fp32_is_fp32_and_a_variable_that_says_otherwise_is_recorded(tmp_path, monkeypatch):
    torch.backends.cuda.matmul.allow_tf32 = True
    assert runtime_of(tmp_path).env.tf32 is False
    assert not torch.backends.cuda.matmul.allow_tf32
    monkeypatch.setenv("TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "1")
    assert runtime_of(tmp_path).env.tf32 is True


def test_a_cache_that_the_card_has_no_room_for_is_read_from_memory(tmp_path, monkeypatch):
    case = prepare(compose_tiny(tmp_path, "train=fast", "train.device=cuda", "method=top_k", "method.k=2"))
    to, cached = torch.Tensor.to, []

    def full(tensor, *args, **kwargs):
        if cached and tensor.numel() and tensor.data_ptr() in cached:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return to(tensor, *args, **kwargs)

    def opened(entry, *args, **kwargs):
        cached.extend(tensor.data_ptr() for tensor in entry.tensors.values())
        monkeypatch.setattr(torch.Tensor, "to", full)
        try:
            return own(entry, *args, **kwargs)
        finally:
            monkeypatch.setattr(torch.Tensor, "to", to)

    own = cache.open_source
    monkeypatch.setattr(cache, "open_source", opened)
    assert train(*case.parts).cache.place.startswith("memory (there was less room")


@pytest.mark.parametrize("graphs", [pytest.param("auto", marks=pytest.mark.whole), "off"])
def test_a_frozen_weight_is_cast_once_in_a_run(tmp_path, pretended, graphs):
    steps = 6
    timing = ("protocol=timing", "protocol.warmup_steps=0", f"protocol.max_steps={steps}")
    method = ("train.device=cuda", "train.precision=bf16", "method=top_k", "method.k=2")
    casts, losses = [], []
    for held in (False, True):
        pretended.free = 70 << 30 if held else 1000  # bytes: on a full card nothing is held
        case = prepare(compose_tiny(tmp_path, *method, *timing, f"train.graphs={graphs}"))
        before = pretended.launches["_to_copy"]
        losses.append([entry["loss"] for entry in train(*case.parts).history])
        casts.append(pretended.launches["_to_copy"] - before)
    assert losses[0] == losses[1]
    frozen = 2 * 6 * 2  # layers, maps in each, weight and bias of each
    assert graphs == "auto" or casts[0] - casts[1] == frozen * (steps - 1)


def test_the_doctor_steps_in_four_ways_and_names_the_fastest_that_holds(pretended):
    found = list(cuda_findings())
    assert [what for what, there, _ in found if not there] == ["driver"]  # that of a pretended device
    assert found[-1][0] == "to take" and "nothing" in found[-1][2]
    pretended.refused = "native_layer_norm_backward"
    failed = {what: (there, detail) for what, there, detail in cuda_findings()}
    assert failed["bf16 captured"][0] is False and "refuses" in failed["bf16 captured"][1]
    assert "train.graphs=off" in failed["to take"][1]
