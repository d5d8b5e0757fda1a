"""The pretended device is as strict as a real one: nothing else makes a rehearsal worth its time."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

pytestmark = pytest.mark.pretended


@pytest.fixture
def values():
    return torch.arange(6.0).view(2, 3).to("cuda")


def waits(pretended, action):
    with pretended.counting() as found:
        action()
    return [kind for kind, _, _ in found.elements()]


def test_devices_that_mix_raise(values):
    with pytest.raises(RuntimeError, match="same device"):
        values + torch.ones(2, 3)
    with pytest.raises(TypeError, match="numpy"):
        values.numpy()
    assert (values + torch.tensor(1.0)).device == torch.device("cuda", 0)  # a scalar of the CPU may


@pytest.mark.parametrize(
    "read",
    [
        lambda t: t.sum().item(),
        lambda t: bool((t > 0).all()),
        lambda t: t.cpu(),
        lambda t: t.tolist(),
        lambda t: t[t > 1],
        lambda t: t.nonzero(),
        lambda t: torch.equal(t, t),
        lambda t: torch.empty(2, 3).copy_(t),
    ],
)
def test_what_reads_a_value_back_is_counted_once(pretended, values, read):
    assert waits(pretended, lambda: read(values)) == ["read"]


def test_only_a_copy_from_pinned_memory_lets_the_host_go_on(pretended, values):
    host = torch.ones(2, 3)
    for action, expected in (
        (lambda: host.to("cuda", non_blocking=True), ["upload"]),
        (lambda: host.pin_memory().to("cuda"), ["upload"]),
        (lambda: host.pin_memory().to("cuda", non_blocking=True), []),
        (lambda: values.copy_(host.pin_memory(), non_blocking=True), []),
        (lambda: torch.tensor(1.0, device="cuda"), ["upload"]),
        (lambda: values[torch.tensor([0, 1])], ["upload"]),
        (lambda: torch.zeros(2, device="cuda") + 1, []),
    ):
        assert waits(pretended, action) == expected


def test_a_wait_is_counted_at_its_line(pretended, values):
    with pretended.counting() as found:
        values.sum().item()
    ((_, _, place),) = found
    assert place.startswith("test_pretend_cuda.py:")


def test_training_computes_what_the_cpu_computes():
    found = []
    for device in ("cpu", "cuda"):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.GELU(), torch.nn.Linear(8, 2)).to(device)
        optimizer = torch.optim.AdamW(model.parameters(), fused=True)
        for step in range(3):
            inputs = torch.arange(8.0).view(2, 4).add(step).to(device)
            F.cross_entropy(model(inputs), torch.tensor([0, 1], device=device)).backward()
            optimizer.step()
            optimizer.zero_grad()
        found.append([p.detach().cpu() for p in model.parameters()])
    for ours, theirs in zip(*found, strict=True):
        assert torch.equal(ours, theirs)


def test_autocast_computes_in_half_precision(values):
    with torch.autocast("cuda", torch.bfloat16):
        assert (values @ values.T).dtype == torch.bfloat16


def capture(function):
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = function()
    return out, graph


def test_a_replay_reads_its_inputs_anew_and_draws_anew(values):
    torch.cuda.manual_seed(3)
    before = torch.cuda.get_rng_state()
    (doubled, drawn), graph = capture(lambda: (values * 2, F.dropout(values + 1)))
    assert torch.equal(torch.cuda.get_rng_state(), before)  # a capture runs nothing
    values.copy_(values + 1)
    graph.replay()
    assert doubled.tolist() == (values * 2).tolist()
    seen = set()
    for _ in range(6):
        graph.replay()
        seen.add(str(drawn.tolist()))
    assert len(seen) > 1


def test_a_wait_in_a_capture_fails_and_leaves_its_stream_and_its_generator(pretended, values):
    stream = torch.cuda.current_stream()
    with pytest.raises(RuntimeError, match="previous error"):
        capture(lambda: values.sum().item())
    assert torch.cuda.current_stream() is not stream
    torch.cuda.set_stream(stream)
    with pytest.raises(RuntimeError, match="graph capture"):
        F.dropout(values)
    spare = pretended.generator.clone_state()
    pretended.generator.graphsafe_set_state(spare)
    F.dropout(values)
