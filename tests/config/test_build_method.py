"""Methods: their options are typed by the YAML that declares them, and a k that nothing reads is left out."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from layertune.config import MethodSpec, RunConfig, groups
from layertune.config.build import build_method_spec
from layertune.config.groups import group_file, group_names
from layertune.errors import ConfigError

Build = Callable[..., RunConfig]

DECLARED = {
    "name": "mine",
    "rank": 8,
    "scale": 2.0,
    "bias": False,
    "target": "query",
    "sizes": [1, 2],
    "rates": [0.1, 0.2],
    "mixed": [1, "a"],
    "limits": {"low": 1},
    "free": None,
}


def test_keys_beyond_the_fields_of_a_method_are_its_options() -> None:
    spec = build_method_spec({**DECLARED, "rank": 4, "scale": 3, "sizes": [5], "rates": [1]}, DECLARED)
    assert spec == MethodSpec(name="mine", options=spec.options)
    assert spec.options["rank"] == 4
    assert spec.options["scale"] == 3.0 and type(spec.options["scale"]) is float
    assert spec.options["sizes"] == (5,)
    assert spec.options["rates"] == (1.0,) and type(spec.options["rates"][0]) is float
    assert spec.options["limits"] == {"low": 1}


@pytest.mark.parametrize(
    ("key", "value", "takes"),
    [
        ("rank", 8.5, "method.rank takes an integer"),
        ("rank", True, "method.rank takes an integer"),
        ("rank", "8", "method.rank takes an integer"),
        ("scale", "big", "method.scale takes a number"),
        ("scale", True, "method.scale takes a number"),
        ("bias", 1, "method.bias takes true or false"),
        ("target", 3, "method.target takes text"),
        ("sizes", 3, "method.sizes takes a list"),
        ("sizes", [1, "2"], r"method.sizes\[1\] takes an integer"),
        ("rates", ["a"], r"method.rates\[0\] takes a number"),
        ("limits", 3, "method.limits takes a mapping"),
    ],
)
def test_an_option_has_the_type_of_its_value_in_the_yaml(key: str, value: Any, takes: str) -> None:
    with pytest.raises(ConfigError, match=takes):
        build_method_spec({**DECLARED, key: value}, DECLARED)


@pytest.mark.parametrize(
    ("key", "value"), [("free", 3), ("free", "x"), ("rank", None), ("mixed", ["b", 2, 3])]
)
def test_null_and_mixed_lists_leave_the_type_open(key: str, value: Any) -> None:
    frozen = tuple(value) if isinstance(value, list) else value
    assert build_method_spec({**DECLARED, key: value}, DECLARED).options[key] == frozen


def test_an_option_that_the_yaml_does_not_have_is_refused(build: Build) -> None:
    with pytest.raises(ConfigError, match=r"method\.zz does not exist; allowed here: .*selector"):
        build({"method.zz": 3})  # what +method.zz=3 leaves behind
    with pytest.raises(ConfigError, match=r"method\.rnk does not exist.*Did you mean 'rank'\?"):
        build_method_spec({**DECLARED, "rnk": 3}, DECLARED)


def test_the_options_of_every_method_refuse_a_wrong_type() -> None:
    for name in group_names("method"):
        declared = group_file("method", name)
        assert declared is not None
        spec = build_method_spec(declared, declared)
        assert spec.name == name
        for key in spec.options:
            if declared[key] is not None:
                wrong = 1 if isinstance(declared[key], dict) else {"a": 1}
                with pytest.raises(ConfigError, match=rf"method\.{key}="):
                    build_method_spec({**declared, key: wrong}, declared)


def test_a_rate_without_a_point_is_a_number_in_every_yaml(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "method").mkdir()
    (tmp_path / "method" / "my_rate.yaml").write_text("name: my_rate\nrate: 1e-3\n")
    monkeypatch.setattr(groups, "CONFIG_DIR", tmp_path)
    assert group_file("method", "my_rate") == {"name": "my_rate", "rate": 0.001}
    assert group_file("method", "missing") is None


# -- k ------------------------------------------------------------------------------------------------------

FULL = {"method": {"name": "full", "kind": "full", "scorer": None, "selector": None, "k": None}}


def test_a_k_that_nothing_reads_is_left_out_with_a_warning(
    build: Build, caplog: pytest.LogCaptureFixture
) -> None:
    plain = build(FULL)
    assert caplog.records == []
    with_k = build({"method": {**FULL["method"], "k": 3}})
    (line,) = caplog.records
    assert line.levelno == logging.WARNING
    assert line.getMessage() == "method.k=3 has no effect: method=full selects no layers; it is left out."
    assert with_k.method.k is None
    assert with_k == plain
    assert (with_k.run_id, with_k.identity()) == (plain.run_id, plain.identity())


def test_a_k_that_cannot_be_is_no_error_where_nothing_reads_it(build: Build) -> None:
    assert build({"method": {**FULL["method"], "k": 99}}).method.k is None


def test_a_selection_and_a_method_without_a_yaml_keep_their_k(
    build: Build, caplog: pytest.LogCaptureFixture
) -> None:
    assert build({"method.scorer": None, "method.selector": "random"}).method.k == 3
    assert build({"method": {"name": "my_own", "kind": "my_package.Method", "k": 2}}).method.k == 2
    assert caplog.records == []


def test_a_method_whose_yaml_gives_a_k_keeps_it(
    build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "method").mkdir()
    (tmp_path / "method" / "reads_k.yaml").write_text("name: reads_k\nkind: my_package.Method\nk: 2\n")
    monkeypatch.setattr(groups, "CONFIG_DIR", tmp_path)
    assert build({"method": {"name": "reads_k", "kind": "my_package.Method", "k": 1}}).method.k == 1
    assert caplog.records == []
