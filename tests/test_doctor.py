"""`make doctor-cuda` where there is no GPU; with one, if only a pretended one: pretended/test_device.py."""

from __future__ import annotations

import pytest
import torch
from programs import program


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is there")
def test_without_a_cuda_device_the_doctor_says_so_and_exits_2(repo, monkeypatch, capsys):
    assert program(repo / "scripts" / "doctor.py", ["cuda"], monkeypatch) == 2
    assert "no CUDA device" in capsys.readouterr().err
