"""Classification and regression metrics against hand-worked values, scikit-learn and scipy."""

import json

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from layertune.errors import ConfigError
from layertune.evaluation import metrics

# label 0: P 1/2 R 1/2, label 1: P 2/3 R 1, label 2: P 1 R 1/2
THREE = np.array([1, 1, 1, 0, 0, 2]), np.array([1, 0, 1, 0, 2, 2])
# TP 3, FP 1, FN 1, TN 2
TWO = np.array([1, 1, 1, 1, 0, 0, 0]), np.array([1, 1, 1, 0, 1, 0, 0])


def test_accuracy_is_the_share_of_equal_labels():
    assert metrics.accuracy(*THREE) == pytest.approx(4 / 6)


def test_macro_f1_is_the_unweighted_mean_over_labels():
    assert metrics.f1_macro(*THREE) == pytest.approx((1 / 2 + 4 / 5 + 2 / 3) / 3)


def test_binary_f1_looks_at_label_one_only():
    assert metrics.f1_binary(*TWO) == pytest.approx(3 / 4)
    assert metrics.f1_macro(*TWO) == pytest.approx((3 / 4 + 2 / 3) / 2)


def test_mcc_of_a_two_by_two_table():
    # (TP TN - FP FN) / sqrt((TP+FP)(TP+FN)(TN+FP)(TN+FN)) = (6 - 1) / sqrt(4 4 3 3)
    assert metrics.mcc(*TWO) == pytest.approx(5 / 12)


def test_macro_f1_counts_a_label_that_only_the_predictions_hold():
    # labels 0 (F1 1/2: P 1, R 1/3) and 7 (F1 0, never in the references)
    predictions, references = np.array([0, 7, 7]), np.array([0, 0, 0])
    assert metrics.f1_macro(predictions, references) == pytest.approx(1 / 4)
    assert metrics.f1_macro(predictions, references) == pytest.approx(
        sk.f1_score(references, predictions, average="macro", zero_division=0)
    )


def test_an_all_positive_predictor_looks_good_in_binary_f1_and_bad_in_macro_f1():
    references = np.repeat([1, 0], [279, 129])  # the label counts of MRPC's validation split
    predictions = np.ones(408, dtype=int)
    assert metrics.f1_binary(predictions, references) == pytest.approx(2 * 279 / (408 + 279))  # 81.2
    assert metrics.f1_macro(predictions, references) == pytest.approx(279 / (408 + 279))  # 40.6


@pytest.mark.parametrize("classes", [2, 3, 6])
@pytest.mark.parametrize("seed", range(5))
def test_classification_metrics_equal_scikit_learn(classes, seed):
    rng = np.random.default_rng(seed)
    references = rng.integers(classes, size=60)
    predictions = np.where(rng.random(60) < 0.5, references, rng.integers(classes, size=60))
    ours = metrics.compute(("accuracy", "f1_macro", "mcc"), predictions, references)
    assert ours["accuracy"] == pytest.approx(sk.accuracy_score(references, predictions))
    assert ours["f1_macro"] == pytest.approx(sk.f1_score(references, predictions, average="macro"))
    assert ours["mcc"] == pytest.approx(sk.matthews_corrcoef(references, predictions))
    if classes == 2:
        assert metrics.f1_binary(predictions, references) == pytest.approx(
            sk.f1_score(references, predictions)
        )


def test_pearson_of_three_points_by_hand():
    # deviations (-1, 0, 1) and (-2, 1, 1): 3 / sqrt(2 * 6)
    assert metrics.pearson(np.array([1.0, 2.0, 3.0]), np.array([0.0, 3.0, 3.0])) == pytest.approx(3 / 12**0.5)


def test_spearman_gives_tied_values_their_mean_rank():
    # ranks 1 2.5 2.5 4 and 1 2 3 4: deviations -1.5 0 0 1.5 and -1.5 -.5 .5 1.5: 4.5 / sqrt(4.5 * 5)
    assert metrics.spearman(np.array([1, 5, 5, 9]), np.array([10, 20, 30, 40])) == pytest.approx(
        4.5 / 22.5**0.5
    )


def test_spearman_sees_order_and_pearson_sees_distance():
    x = np.array([1.0, 2.0, 3.0, 4.0])
    assert metrics.spearman(np.exp(5 * x), x) == pytest.approx(1.0)
    assert metrics.pearson(np.exp(5 * x), x) < 0.9


@pytest.mark.parametrize("seed", range(5))
def test_correlations_equal_scipy_with_ties_and_float32(seed):
    rng = np.random.default_rng(seed)
    references = rng.integers(0, 26, size=80).astype(np.float32) / 5
    predictions = (references + rng.normal(size=80)).round(1).astype(np.float32)
    assert metrics.pearson(predictions, references) == pytest.approx(
        stats.pearsonr(predictions.astype(float), references.astype(float)).statistic, abs=1e-12
    )
    assert metrics.spearman(predictions, references) == pytest.approx(
        stats.spearmanr(predictions, references).statistic, abs=1e-12
    )


def test_pearson_survives_a_large_offset_and_a_large_scale():
    x = np.array([0.0, 1.0, 2.0, 4.0])
    assert metrics.pearson(x + 1e6, x) == pytest.approx(1.0)
    assert metrics.pearson(x * 1e200, -x) == pytest.approx(-1.0)


@pytest.mark.parametrize("name", sorted(metrics.METRICS))
def test_no_examples_is_an_error(name):
    with pytest.raises(ValueError, match="no examples"):
        metrics.METRICS[name](np.array([]), np.array([]))


@pytest.mark.parametrize("name", sorted(metrics.METRICS))
def test_unequal_lengths_and_columns_are_an_error(name):
    with pytest.raises(ValueError, match="equally long"):
        metrics.METRICS[name](np.array([1, 0]), np.array([1]))
    with pytest.raises(ValueError, match=r"\(2, 1\)"):
        metrics.METRICS[name](np.array([[1], [0]]), np.array([1, 0]))


@pytest.mark.parametrize("name", ["pearson", "spearman"])
def test_predictions_that_are_not_finite_are_an_error_and_not_a_score(name):
    with pytest.raises(ValueError, match="predictions hold values that are not finite"):
        metrics.METRICS[name](np.array([1.0, np.nan, 2.0]), np.array([1.0, 2.0, 3.0]))


def test_mcc_of_a_constant_side_is_zero_as_in_scikit_learn():
    constant, varied = np.zeros(4, dtype=int), np.array([0, 1, 0, 1])
    assert metrics.mcc(constant, varied) == sk.matthews_corrcoef(varied, constant) == 0.0
    assert metrics.mcc(varied, constant) == 0.0
    assert metrics.mcc(constant, constant) == 0.0


def test_binary_f1_without_a_positive_is_zero_and_more_labels_are_an_error():
    assert metrics.f1_binary(np.zeros(3), np.zeros(3)) == 0.0
    with pytest.raises(ValueError, match="f1_macro"):
        metrics.f1_binary(np.array([0, 2]), np.array([0, 1]))


@pytest.mark.parametrize("name", ["pearson", "spearman"])
def test_a_correlation_with_a_constant_side_is_none_and_json_can_write_it(name):
    result = metrics.compute([name], np.full(3, 0.1, dtype=np.float32), np.array([1.0, 2.0, 3.0]))
    assert json.dumps(result, allow_nan=False) == f'{{"{name}": null}}'
    assert metrics.METRICS[name](np.array([1.0]), np.array([2.0])) is None


def test_compute_keeps_the_order_and_returns_plain_floats():
    result = metrics.compute(["mcc", "accuracy"], *TWO)
    assert list(result) == ["mcc", "accuracy"]
    assert all(type(value) is float for value in result.values())


def test_an_unknown_metric_names_the_known_ones():
    with pytest.raises(ConfigError, match=r"'f1'.*accuracy, f1_macro, f1_binary, mcc, pearson, spearman"):
        metrics.compute(["f1"], *TWO)
    with pytest.raises(ConfigError, match="'f1'"):
        metrics.evaluate_module("f1")


@pytest.fixture
def caches(tmp_path, monkeypatch):
    evaluate = pytest.importorskip("evaluate")
    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", tmp_path)
    return tmp_path


def test_evaluate_modules_give_the_same_numbers_without_a_network(caches):
    module = metrics.evaluate_module("f1_macro", keep_in_memory=True)
    assert module.compute(predictions=THREE[0], references=THREE[1]) == {
        "f1_macro": pytest.approx(metrics.f1_macro(*THREE))
    }
    regression = metrics.evaluate_module("pearson", keep_in_memory=True)
    assert regression.compute(predictions=[1.5, 2.25, 3.0], references=[0.0, 3.0, 3.0])[
        "pearson"
    ] == pytest.approx(stats.pearsonr([1.5, 2.25, 3.0], [0.0, 3.0, 3.0]).statistic)


def test_evaluate_modules_take_batches_and_combine(caches):
    import evaluate

    combined = evaluate.combine(
        [metrics.evaluate_module(name, cache_dir=str(caches)) for name in ("accuracy", "mcc")]
    )
    combined.add_batch(predictions=TWO[0][:3], references=TWO[1][:3])
    combined.add_batch(predictions=TWO[0][3:], references=TWO[1][3:])
    assert combined.compute() == {"accuracy": pytest.approx(5 / 7), "mcc": pytest.approx(5 / 12)}
