"""configs/sweep: what a search tries follows from the method and the grid of the command."""

from __future__ import annotations

import importlib.util

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from omegaconf.errors import InterpolationResolutionError

from layertune.config.compose import register_schema, request_error
from layertune.config.groups import CONFIG_DIR

BASE = ("model=tiny_bert", "task=demo")

needs_optuna = pytest.mark.skipif(
    importlib.util.find_spec("hydra_plugins.hydra_optuna_sweeper") is None,
    reason="hydra-optuna-sweeper is not installed (extra: search)",
)


def params(*overrides: str) -> dict[str, str]:
    """Return what the sweeper of a command is given."""
    register_schema()
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        cfg = compose("config", overrides=[*BASE, *overrides], return_hydra_config=True)
    assert isinstance(cfg, DictConfig)
    assert cfg.protocol.name == "search" and cfg.hydra.mode.name == "MULTIRUN"
    return {str(key): str(value) for key, value in cfg.hydra.sweeper.params.items()}


@pytest.mark.parametrize(
    ("overrides", "rates"),
    [
        (("method=low_k",), "1e-05,2e-05,5e-05"),  # §4.4
        (("method=lora",), "1e-05,2e-05,5e-05"),
        (("method=lora", "grid=fair"), "0.0001,0.0002,0.0005"),
        (("method=low_k", "method.grids.fair=[3e-5,1.25e-4]", "grid=fair"), "3e-05,0.000125"),
    ],
)
def test_a_search_tries_the_method_s_own_list_of_the_grid(overrides: tuple[str, ...], rates: str) -> None:
    fair_by_hand = [f"+{item}" if item.startswith("method.grids") else item for item in overrides]
    assert params("sweep=rates", *fair_by_hand) == {"train.learning_rate": rates}


def test_the_paper_s_search_has_its_epochs_and_batch_sizes() -> None:
    # §4.4: rates {1e-5, 2e-5, 5e-5}; 3, 5 and 10 epochs; batch size 16 and 32.
    assert params("sweep=paper", "method=full") == {
        "train.learning_rate": "1e-05,2e-05,5e-05",
        "train.epochs": "3,5,10",
        "train.batch_size": "16,32",
    }


@needs_optuna
def test_optuna_searches_between_the_ends_of_the_list() -> None:
    found = params("sweep=optuna", "method=lora", "grid=fair")
    assert found["train.learning_rate"] == "tag(log, interval(0.0001,0.0005))"


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("sweep=rates", "method=low_k,full"), "takes one method per command"),
        (("sweep=rates", "method=low_k", "grid=paper,fair"), "takes one grid per command"),
        (("sweep=rates", "method=low_k", "grid=choice(paper,fair)"), "takes one grid per command"),
        pytest.param(
            ("sweep=optuna", "method=low_k", "seed=0,42"), "takes one seed per command", marks=needs_optuna
        ),
    ],
)
def test_a_search_that_would_try_another_method_s_rates_is_refused(
    overrides: tuple[str, ...], words: str
) -> None:
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra._internal.utils import create_config_search_path
    from hydra.types import RunMode

    register_schema()
    loader = ConfigLoaderImpl(create_config_search_path(str(CONFIG_DIR)))  # as `hydra.main` composes a sweep
    cfg = loader.load_configuration("config", [*BASE, *overrides], run_mode=RunMode.MULTIRUN)
    with pytest.raises(InterpolationResolutionError) as caught:
        dict(cfg.hydra.sweeper.params)
    sentence = request_error(caught.value)
    assert sentence is not None and sentence.endswith(f"{words}.") and sentence.startswith(overrides[-1])
