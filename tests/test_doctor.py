"""`make doctor-cuda` where there is no GPU; with one, if only a pretended one: pretended/test_device.py."""

from __future__ import annotations

import pytest
import torch
from programs import program

from layertune import doctor


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is there")
def test_without_a_cuda_device_the_doctor_says_so_and_exits_2(repo, monkeypatch, capsys):
    assert program(repo / "scripts" / "doctor.py", ["cuda"], monkeypatch) == 2
    assert "no CUDA device" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is there")
@pytest.mark.parametrize("there", [False, True])
def test_the_doctor_says_why_a_mac_s_gpu_is_not_used(there, monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: there)
    monkeypatch.setattr(doctor, "_hub", lambda: "not asked")
    (device,) = (detail for what, _, detail in doctor.findings() if what == "device")
    assert device.startswith("CPU") and ("float64" in device) == there
