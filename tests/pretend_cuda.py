"""A CUDA device for machines without one: it computes on the CPU and is as strict as a real one.

    python -m pytest -p pretend_cuda -m 'gpu or pretended' tests/test_gpu_fast.py

Tensors say that they are on `cuda:0`, to autograd and autocast too. Devices that mix raise; whatever makes
the host wait is counted with its line; a captured graph is a tape, played again without Python above it. It
shows nothing of kernels, memory or time, and cannot be indexed by a list. To be loaded before anything else
uses torch, in a process of its own: `tests/test_rehearsal.py` starts those.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
SOURCE = Path(__file__).with_suffix(".cpp")


def library() -> Path:
    """Return the compiled half, made once per version of torch and of the source.

    Raises:
        RuntimeError: there is no compiler, or it fails.
    """
    compiler = shutil.which("g++")
    if compiler is None:
        raise RuntimeError("a pretended CUDA device needs g++")
    spec = importlib.util.find_spec("torch")  # not imported: it would look for a device too early
    assert spec is not None and spec.origin is not None
    root = Path(spec.origin).parent
    known = hashlib.sha256(SOURCE.read_bytes() + f"{version('torch')}|{root}".encode()).hexdigest()[:16]
    made = Path(tempfile.gettempdir()) / f"pretend-cuda-{os.getuid()}-{known}.so"
    if not made.is_file():
        own = made.with_suffix(f".{os.getpid()}")
        command = [compiler, "-std=c++20", "-O0", "-shared", "-fPIC", str(SOURCE), "-o", str(own)]
        command += [
            f"-I{root / 'include'}",
            f"-I{root / 'include/torch/csrc/api/include'}",
        ]
        command += [f"-L{root / 'lib'}", "-ltorch_cpu", "-lc10", f"-Wl,-rpath,{root / 'lib'}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"a pretended CUDA device cannot be compiled: {done.stderr[-300:]}")
        own.replace(made)
    return made


ctypes.CDLL(str(library()), mode=ctypes.RTLD_GLOBAL)  # before torch asks who is there

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only, tree_unflatten

import layertune

OWN = f"{Path(layertune.__file__).parent}{os.sep}"
CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")
# What every generator of a device that once failed in a capture says up to torch 2.11.
POISONED = "Offset increment outside graph capture encountered unexpectedly."


class Generator:
    """The device's random numbers: a state of the CPU's kind, and whether a capture is drawing from it."""

    def __init__(self, state: Tensor | None = None) -> None:
        self.impl = SimpleNamespace(state=state, capturing=False)
        if state is None:
            self.manual_seed(0)

    def manual_seed(self, seed: int) -> None:
        self.impl.state = torch.Generator().manual_seed(int(seed) % 2**63).get_state()

    def get_state(self) -> Tensor:
        if DEVICE.stream.capturing:
            raise RuntimeError("Cannot call CUDAGeneratorImpl::current_seed during CUDA graph capture.")
        return self.impl.state.clone()

    def set_state(self, state: Tensor) -> None:
        self.impl.state = state.clone()

    def clone_state(self) -> Generator:
        return Generator(self.impl.state.clone())

    def graphsafe_set_state(self, other: Generator) -> None:
        self.impl = other.impl

    def graphsafe_get_state(self) -> Generator:
        shared = Generator(self.impl.state)
        shared.impl = self.impl
        return shared

    def drawing(self, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Call a function that draws."""
        if self.impl.capturing and not DEVICE.stream.capturing:
            raise RuntimeError(POISONED)
        host = torch.get_rng_state()
        torch.default_generator.set_state(self.impl.state)
        try:
            return function(*args, **kwargs)
        finally:
            self.impl.state = torch.get_rng_state()
            torch.default_generator.set_state(host)


class Stream:
    """An order of work; all of it is done at once."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self.capturing = False

    def wait_stream(self, other: Stream) -> None: ...

    def wait_event(self, event: Event) -> None: ...

    def synchronize(self) -> None:
        DEVICE.wait("Stream.synchronize")


class Event:
    """A moment of the stream."""

    def __init__(self, enable_timing: bool = False, **_: Any) -> None:
        self.at = 0.0

    def record(self, stream: Stream | None = None) -> None:
        self.at = time.perf_counter()

    def elapsed_time(self, other: Event) -> float:
        return 1000 * (other.at - self.at)

    def query(self) -> bool:
        return True

    def synchronize(self) -> None:
        DEVICE.wait("Event.synchronize")


class Device:
    """The state of the pretended device.

    Attributes:
        waits: (kind, operation, file:line) -> how often the host waited: `read`, `upload` (a copy to the
            device from memory that is not pinned, or said to block), `wait`.
        launches: how often an operation that is no view was launched; a replay counts once.
        captures: graphs that were captured to their end; replays: of all of them.
        poisons: whether a generator stays unusable after a capture that failed (torch up to 2.11).
        refused: an operation that fails in a capture, by name, as if the device refused it.
        free: bytes that `mem_get_info` names.
    """

    def __init__(self) -> None:
        self.default = self.stream = Stream()
        self.generator = Generator.__new__(Generator)
        self.tape: list[Callable[[], None]] = []
        self.waits: Counter[tuple[str, str, str]] = Counter()
        self.launches: Counter[str] = Counter()
        self.captures = self.replays = 0
        self.poisons = True
        self.refused: str | None = None
        self.free = 70 << 30
        self.bf16 = True

    def wait(self, operation: str, kind: str = "wait") -> None:
        """Count a point where the host waits for the device; in a capture it is an error."""
        if self.stream.capturing:
            raise RuntimeError(f"CUDA error: operation not permitted when stream is capturing ({operation})")
        self.waits[kind, operation, _place()] += 1

    @contextmanager
    def counting(self) -> Iterator[Counter[tuple[str, str, str]]]:
        """Give a counter that holds, at the end, the waits inside the block."""
        before, found = self.waits.copy(), Counter()
        yield found
        found.update(self.waits - before)


DEVICE = Device()


def _place() -> str:
    """Return the innermost line of the project, else the innermost that is not torch's."""
    frame, other = sys._getframe(2), "autograd"
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(OWN):
            return f"{name.removeprefix(OWN)}:{frame.f_lineno}"
        if other == "autograd" and f"{os.sep}torch{os.sep}" not in name and name != __file__:
            other = f"{Path(name).name}:{frame.f_lineno}"
        frame = frame.f_back
    return "autograd" if threading.current_thread() is not threading.main_thread() else other


class OnCuda(torch.Tensor):
    """A tensor that says it is on the device; `held` is what it computes with."""

    held: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held: Tensor, requires_grad: bool = False) -> OnCuda:
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            layout=held.layout,
            device=CUDA,
            requires_grad=requires_grad,
        )
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _launch(func, args, kwargs or {})

    def __tensor_flatten__(self) -> tuple[list[str], None]:  # Module.to swaps tensors of such classes
        return ["held"], None

    @staticmethod
    def __tensor_unflatten__(inner: dict[str, Tensor], *_: Any) -> OnCuda:
        return OnCuda(inner["held"])

    @property
    def data(self) -> OnCuda:
        return OnCuda(self.held)

    @data.setter
    def data(self, value: Tensor) -> None:
        if isinstance(value, OnCuda):
            self.held = value.held
        else:  # Module.to: a parameter stays the same object on the CPU
            torch.utils.swap_tensors(self, torch.nn.Parameter(value, self.requires_grad))

    def __deepcopy__(self, memo: dict[int, Any]) -> OnCuda:
        if id(self) not in memo:
            made = memo[id(self)] = OnCuda(self.held.clone(), self.requires_grad)
            if getattr(self, "_is_param", False):
                made._is_param = True
        return memo[id(self)]

    def __reduce_ex__(self, protocol: int) -> Any:
        raise TypeError("a tensor on the device is to be saved from the CPU")

    def __repr__(self, **_: Any) -> str:
        return f"OnCuda({self.held!r})"

    def data_ptr(self) -> int:
        return self.held.data_ptr()

    def tolist(self) -> Any:
        DEVICE.wait("tolist", "read")
        return self.held.tolist()

    def numpy(self, **_: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first.")

    __array__ = numpy


class Pretend(TorchDispatchMode):
    """Sees the operations that no tensor of the device is given to: those that make one."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _launch(func, args, kwargs or {})


def _launch(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Run an operation of the device on what its tensors hold; any other as it is."""
    flat, form = tree_flatten((args, kwargs))
    ours = [x for x in flat if isinstance(x, OnCuda)]
    wanted = kwargs.get("device")
    wanted = None if wanted is None else torch.device(wanted)
    makes = bool(ours) if wanted is None else wanted.type == "cuda"
    if not ours and not makes:
        return func(*args, **kwargs)
    theirs = [x for x in flat if isinstance(x, Tensor) and not isinstance(x, OnCuda)]
    name = func._schema.name.rpartition("::")[2]
    if DEVICE.stream.capturing and name == DEVICE.refused:
        raise RuntimeError(f"CUDA error: the pretended device refuses {name} in a capture")
    if name in ("_to_copy", "copy_", "_foreach_copy_"):
        makes = _transfer(name, args, kwargs, bool(ours), theirs, makes)
    elif theirs:
        _check_mixed(func, name, args, theirs)
    if ours and _reads(func, name, args):
        DEVICE.wait(name, "read")

    def inside(x: Any) -> Any:
        return x.held if isinstance(x, OnCuda) else x

    inner, named = tree_unflatten([inside(x) for x in flat], form)
    if wanted is not None and wanted.type == "cuda":
        named["device"] = CPU
    draws = torch.Tag.nondeterministic_seeded in func.tags

    def call() -> Any:
        return DEVICE.generator.drawing(func, inner, named) if draws and makes else func(*inner, **named)

    out = call()
    if DEVICE.stream.capturing:
        DEVICE.tape.append(lambda: _put(out, call()))
    elif not func.is_view:
        DEVICE.launches[name] += 1
    if not makes:
        return out
    known = {id(x.held): x for x in ours}  # an operation in place returns the tensor that it was given
    return tree_map_only(Tensor, lambda x: known[id(x)] if id(x) in known else OnCuda(x), out)


def _put(kept: Any, new: Any) -> None:
    """Leave new results where the old ones are."""
    for old, fresh in zip(tree_flatten(kept)[0], tree_flatten(new)[0], strict=True):
        if not isinstance(old, Tensor) or old is fresh or not old.numel():
            continue
        if old.untyped_storage().data_ptr() != fresh.untyped_storage().data_ptr():  # else a view
            old.copy_(fresh)


def _transfer(
    name: str, args: Any, kwargs: dict[str, Any], ours: bool, theirs: list[Tensor], makes: bool
) -> bool:
    """Count what blocks of a copy between host and device; return whether the result is on the device."""
    at_once = bool(kwargs.get("non_blocking"))
    if name == "_to_copy":
        if ours and not makes:
            DEVICE.wait(name, "read")
        elif theirs and not (at_once and _is_pinned(theirs[0])):
            DEVICE.wait(name, "upload")
        return makes
    at_once = at_once or (len(args) > 2 and bool(args[2]))
    to = args[0] if name == "copy_" else args[0][0]
    if not theirs:
        return True
    if not isinstance(to, OnCuda):
        DEVICE.wait(name, "read")
        return False
    if not (at_once and all(map(_is_pinned, theirs))):
        DEVICE.wait(name, "upload")
    return True


def _check_mixed(func: Any, name: str, args: Any, theirs: list[Tensor]) -> None:
    """Allow scalars of the CPU and its index tensors, which are copied over; raise for all else."""
    if "index" in name and name != "index_select" and isinstance(args[0], OnCuda):
        DEVICE.wait(name, "upload")
    elif any(tensor.dim() for tensor in theirs):
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu! "
            f"({func})"
        )


def _reads(func: Any, name: str, args: Any) -> bool:
    """Whether the host needs values to go on: a number, or the shape of the result."""
    if "index" in name:
        found = args[1] if len(args) > 1 and isinstance(args[1], (list, tuple)) else []
        return any(t is not None and t.dtype in (torch.bool, torch.uint8) for t in found)
    if name == "repeat_interleave":  # by a number it is a view of its own
        return func._overloadname == "Tensor"
    return bool({torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape} & set(func.tags))


def _is_pinned(tensor: Tensor) -> bool:
    return getattr(tensor, "pretended_pinned", False)


def _pin(tensor: Tensor, *_: Any) -> Tensor:
    if isinstance(tensor, OnCuda):
        raise RuntimeError("cannot pin 'torch.cuda.FloatTensor' only dense CPU tensors can be pinned")
    if _is_pinned(tensor):
        return tensor
    pinned = tensor.clone()
    pinned.pretended_pinned = True
    return pinned


class CUDAGraph:
    """A tape of what was launched."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self.tape: list[Callable[[], None]] = []

    def replay(self) -> None:
        DEVICE.replays += 1
        DEVICE.launches["graph"] += 1
        with torch.no_grad():
            for again in self.tape:
                again()

    def reset(self) -> None:
        self.tape = []


class Capture:
    """`torch.cuda.graph`: what fails in it leaves the stream of the capture current, as in torch."""

    def __init__(self, cuda_graph: CUDAGraph, pool: Any = None, stream: Any = None, **_: Any) -> None:
        self.graph, self.stream = cuda_graph, Stream()

    def __enter__(self) -> None:
        DEVICE.wait("cuda.graph")
        self.before = DEVICE.stream, DEVICE.generator.impl.state.clone()
        DEVICE.stream, DEVICE.tape = self.stream, []
        self.stream.capturing = DEVICE.generator.impl.capturing = True

    def __exit__(self, kind: Any, *_: Any) -> None:
        self.stream.capturing = False
        DEVICE.generator.impl.state = self.before[1]  # nothing was run, so nothing was drawn
        if kind is not None:
            DEVICE.generator.impl.capturing = DEVICE.poisons
            raise RuntimeError("CUDA error: operation failed due to a previous error during capture")
        DEVICE.generator.impl.capturing = False
        DEVICE.stream, self.graph.tape = self.before[0], DEVICE.tape
        DEVICE.captures += 1


@contextmanager
def _on_stream(stream: Stream) -> Iterator[None]:
    before, DEVICE.stream = DEVICE.stream, stream
    try:
        yield
    finally:
        DEVICE.stream = before


def _set_stream(stream: Stream) -> None:
    DEVICE.stream = stream


def _made(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return a function that builds its tensor on the CPU: the binding does so behind all modes."""

    def make(data: Any, *, device: Any = None, **kwargs: Any) -> Tensor:
        made = function(data, **kwargs)
        return made if device is None else made.to(device)

    return make


def install() -> None:
    """Let torch find the device; this cannot be undone in a process."""
    DEVICE.generator.__init__()
    facts = SimpleNamespace(
        name="a pretended CUDA device", total_memory=80 << 30, major=9, minor=0, multi_processor_count=132
    )
    generator = DEVICE.generator
    values: dict[str, Any] = {
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "_initialized": True,
        "_is_in_bad_fork": lambda: False,
        "_lazy_init": lambda: None,
        "_exchange_device": lambda *_: 0,
        "_maybe_exchange_device": lambda *_: 0,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "set_device": lambda device: None,
        "get_device_properties": lambda device=None: facts,
        "get_device_name": lambda device=None: facts.name,
        "get_device_capability": lambda device=None: (facts.major, facts.minor),
        "is_bf16_supported": lambda including_emulation=True: including_emulation or DEVICE.bf16,
        "synchronize": lambda device=None: DEVICE.wait("synchronize"),
        "empty_cache": lambda: None,
        "mem_get_info": lambda device=None: (DEVICE.free, facts.total_memory),
        "memory_allocated": lambda device=None: 1 << 20,
        "max_memory_allocated": lambda device=None: 1 << 28,
        "reset_peak_memory_stats": lambda device=None: None,
        "default_generators": (generator,),
        "get_rng_state": lambda device="cuda": generator.get_state(),
        "set_rng_state": lambda state, device="cuda": generator.set_state(state),
        "get_rng_state_all": lambda: [generator.get_state()],
        "set_rng_state_all": lambda states: generator.set_state(states[0]),
        "manual_seed": generator.manual_seed,
        "manual_seed_all": generator.manual_seed,
        "Event": Event,
        "Stream": Stream,
        "CUDAGraph": CUDAGraph,
        "graph": Capture,
        "stream": _on_stream,
        "set_stream": _set_stream,
        "current_stream": lambda device=None: DEVICE.stream,
        "default_stream": lambda device=None: DEVICE.default,
        "graph_pool_handle": lambda: (0, 1),
        "is_current_stream_capturing": lambda: DEVICE.stream.capturing,
    }
    for name, value in values.items():
        setattr(torch.cuda, name, value)
    torch.tensor, torch.as_tensor = _made(torch.tensor), _made(torch.as_tensor)
    torch.Tensor.pin_memory = _pin
    Pretend().__enter__()


@pytest.fixture
def pretended() -> Iterator[Device]:
    """The device, to look at its counters and to let it fail; a test leaves it as it found it."""
    kept = DEVICE.stream, DEVICE.refused, DEVICE.free, DEVICE.bf16, DEVICE.poisons
    yield DEVICE
    DEVICE.stream, DEVICE.refused, DEVICE.free, DEVICE.bf16, DEVICE.poisons = kept


install()
