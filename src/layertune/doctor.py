"""What this machine can run: versions, device, weights and data within reach, Java (`make doctor`); whether
its GPU takes the steps of a run, captured or not, in fp32 and bf16 (`make doctor-cuda`).
"""

from __future__ import annotations

import os
import platform
import tempfile
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from layertune.errors import ConfigError, message_of

PACKAGES = ("torch", "transformers", "datasets", "hydra-core", "omegaconf", "accelerate", "peft", "wandb")


def findings() -> Iterator[tuple[str, bool, str]]:
    """Yield (what, whether it is there, detail), one by one, cheapest first."""
    yield "python", True, platform.python_version()
    for package in PACKAGES:
        yield package, *_attempt(lambda package=package: version(package))
    yield "device", *_attempt(_device)
    yield "bf16", *_attempt(_bf16)
    yield "demo model", *_attempt(_demo_model)
    yield "model hub", *_attempt(_hub)
    yield "java (METEOR)", *_attempt(_java)


def cuda_findings() -> Iterator[tuple[str, bool, str]]:
    """Yield what `findings` yields, of a CUDA device: versions, and eight steps of a tiny model in four ways.

    The last line says which settings to give: those of the fastest way that holds.

    Raises:
        ConfigError: there is no CUDA device.
    """
    import torch

    if not torch.cuda.is_available():
        raise ConfigError(
            f"torch {torch.__version__} finds no CUDA device: nothing to examine (make doctor says what else "
            "this machine has)."
        )
    for package in ("torch", "transformers"):
        yield package, *_attempt(lambda package=package: version(package))
    yield "cuda", True, f"{torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"
    yield "driver", *_attempt(_driver)
    yield "device", *_attempt(_device)
    held: dict[tuple[str, str], bool] = {}
    for precision in ("fp32", "bf16"):
        for graphs in ("off", "auto"):
            there, detail = _attempt(lambda p=precision, g=graphs: _steps(p, g))
            held[precision, graphs] = there
            yield f"{precision} {'eager' if graphs == 'off' else 'captured'}", there, detail
    ways = {
        ("bf16", "auto"): "nothing; train.precision=bf16 where it is wanted",
        ("bf16", "off"): "train.graphs=off; train.precision=bf16 where it is wanted",
        ("fp32", "auto"): "train.precision=fp32",
        ("fp32", "off"): "train.graphs=off train.precision=fp32",
    }
    best = next((said for way, said in ways.items() if held[way]), None)
    yield "to take", best is not None, best or "train.device=cpu: no step could be taken on this device"


def _driver() -> str:
    return Path("/proc/driver/nvidia/version").read_text().partition("\n")[0]


def _steps(precision: str, graphs: str) -> str:
    """Train a tiny model for eight steps, with its cache.

    Raises:
        RuntimeError: it fails, computes in another precision, or was not captured.
    """
    from layertune.config.compose import compose_run
    from layertune.pipeline import execute
    from layertune.records import Store

    with tempfile.TemporaryDirectory(prefix="layertune-doctor-") as folder:
        run = compose_run(
            "model=tiny_bert",
            "task=demo",
            "method=top_k",
            "method.k=2",
            "train=fast",
            "protocol=smoke",
            "tracking=disabled",
            "train.device=cuda",
            "train.epochs=2",
            "train.batch_size=16",
            f"train.precision={precision}",
            f"train.graphs={graphs}",
            f"outputs_dir={folder}/outputs",
            f"results_dir={folder}/results",
        )
        record = execute(run, Store(run.results_dir, run.outputs_dir))
    training, taken = record.training, record.env.precision
    assert training is not None
    if taken != precision:
        raise RuntimeError(f"the device has none: it computed in {taken}")
    if graphs == "auto" and training.graphs != "captured":
        raise RuntimeError(str(training.graphs))
    median = training.seconds_per_step_median or 0.0
    return f"loss {training.history[-1]['loss']:.4f}, {1000 * median:.2f} ms per step"


def _attempt(question: Callable[[], str]) -> tuple[bool, str]:
    try:
        return True, question()
    except (ImportError, PackageNotFoundError, OSError, ValueError, RuntimeError) as error:
        return False, message_of(error)


def _device() -> str:
    import torch

    from layertune.runtime import why_cpu

    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        return f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    return f"CPU, {torch.get_num_threads()} threads ({why_cpu()})"


def _bf16() -> str:
    from layertune.config.rates import bf16_on

    has, what = bf16_on("auto")
    if not has:
        raise ValueError(f"this {what} has none: use train.precision=fp32")
    return f"of this {what}"


def _demo_model() -> str:
    from layertune.config.build import build_dataclass
    from layertune.config.groups import group_file
    from layertune.config.schema import ModelSpec
    from layertune.config.weights import weights_folder

    return str(weights_folder(build_dataclass(ModelSpec, group_file("model", "minilm_l6") or {}, "model")))


def _hub() -> str:
    from layertune.hub import why_no_answer

    if (silence := why_no_answer()) is not None:
        raise ValueError(f"{silence}; model.path=<folder> and data_dir=<folder> work without the hub")
    token = "with a token" if os.environ.get("HF_TOKEN") else "without a token (gemma2_2b needs one)"
    return f"reachable, {token}"


def _java() -> str:
    from layertune.evaluation.nlg.scorer import find_java

    return find_java()
