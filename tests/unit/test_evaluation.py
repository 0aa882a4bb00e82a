import time
from functools import partial

import numpy as np
import pandas as pd
import pytest
from equimood import evaluation, levels
from equimood.files import write_json
from equimood.intervals import resample
from equimood.scoring import Scorer, codes
from equimood.tables import PREDICTIONS
from sklearn import metrics as sk
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

CLASSES = ["calm", "cross", "alert", "50 % $_x"]
evaluate = partial(evaluation.evaluate, n_bootstrap=400, confidence=0.95, seed=1)


def study(n_horses=12, n_images=30, skill=2.0, spread=0.5, seed=0, classes=CLASSES):
    """Predictions of a model whose skill differs between horses."""
    rng = np.random.default_rng(seed)
    horse = np.repeat(np.arange(n_horses), n_images)
    truth = rng.integers(len(classes), size=len(horse))
    logits = rng.normal(size=(len(horse), len(classes)))
    own = rng.normal(skill, spread, n_horses)
    logits[np.arange(len(horse)), truth] += own[horse]
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    frame = pd.DataFrame(dict.fromkeys(PREDICTIONS.names, ""), index=range(len(horse)))
    frame["image_id"] = [f"{i:032x}" for i in range(len(horse))]
    frame["horse"] = [f"horse {h}" for h in horse]
    frame["fold"] = [str(h % 4) for h in horse]
    frame["truth"] = np.array(classes)[truth]
    frame["predicted"] = np.array(classes)[p.argmax(axis=1)]
    for c, label in enumerate(classes):
        frame[f"p_{label}"] = p[:, c]
    return frame


@pytest.mark.parametrize("classes", [CLASSES, CLASSES[:2]])
def test_every_figure_is_scikit_learns(classes):
    frame = study(classes=classes)
    found = evaluate(frame, classes, {})
    y, guess = frame["truth"], frame["predicted"]
    p = frame[[f"p_{label}" for label in classes]].to_numpy()
    order = np.argsort(classes)  # scikit-learn wants probabilities in alphabetical order
    expected = {
        "balanced_accuracy": sk.balanced_accuracy_score(y, guess),
        "f1_macro": sk.f1_score(y, guess, average="macro"),
        "accuracy": sk.accuracy_score(y, guess),
        "matthews_corrcoef": sk.matthews_corrcoef(y, guess),
        "log_loss": sk.log_loss(y, p[:, order], labels=np.sort(classes)),
        "brier_score": sk.brier_score_loss(
            y, p[:, order] if len(classes) > 2 else p[:, order[1]], **_labels(classes)
        ),
    }
    assert {name: found.metrics[name]["value"] for name in expected} == pytest.approx(expected)
    for name, score in [("recall", sk.recall_score), ("precision", sk.precision_score)]:
        by_class = score(y, guess, labels=classes, average=None)
        np.testing.assert_allclose(found.by_class[name], by_class)
    np.testing.assert_allclose(
        found.by_class["f1"], sk.f1_score(y, guess, labels=classes, average=None)
    )
    np.testing.assert_array_equal(found.confusion, sk.confusion_matrix(y, guess, labels=classes))


def _labels(classes):
    in_order = sorted(classes)
    return {"labels": in_order} if len(classes) > 2 else {"pos_label": in_order[1]}


@pytest.mark.filterwarnings("ignore:y_pred contains classes")
def test_a_class_never_predicted_or_never_shown_counts_as_in_scikit_learn():
    frame = study()
    frame = frame[frame["truth"] != "alert"]
    frame.loc[frame["predicted"] == "cross", "predicted"] = "calm"
    found = evaluate(frame, CLASSES, {})
    y, guess = frame["truth"], frame["predicted"]
    assert found.metrics["balanced_accuracy"]["value"] == pytest.approx(
        sk.balanced_accuracy_score(y, guess)
    )
    assert found.metrics["f1_macro"]["value"] == pytest.approx(
        sk.f1_score(y, guess, average="macro", zero_division=0)
    )
    alert = found.by_class.set_index("class").loc["alert"]
    assert alert["n_images"] == 0
    assert np.isnan(alert["recall_low"])
    frame = frame[frame["predicted"] != "alert"]  # neither shown nor predicted
    y, guess = frame["truth"], frame["predicted"]
    assert evaluate(frame, CLASSES, {}).metrics["f1_macro"]["value"] == pytest.approx(
        sk.f1_score(y, guess, average="macro", zero_division=0)
    )


def test_replicates_are_metrics_of_resampled_horses():
    frame = study(n_horses=5)
    p = frame[[f"p_{label}" for label in CLASSES]].to_numpy()
    _, horse = np.unique(frame["horse"], return_inverse=True)
    scorer = Scorer.of(frame["truth"], frame["predicted"], frame["horse"], CLASSES, p)
    draw = np.array([2, 0, 1, 0, 2])
    rows = np.concatenate([np.flatnonzero(horse == h) for h in range(5) for _ in range(draw[h])])
    drawn, is_true = frame.iloc[rows], np.eye(4)[codes(frame["truth"], CLASSES)][rows]
    found = {name: figure[0] for name, figure in scorer(draw[None]).items()}
    assert found["f1_macro"] == pytest.approx(
        sk.f1_score(drawn["truth"], drawn["predicted"], average="macro")
    )
    assert found["auroc"] == pytest.approx(sk.roc_auc_score(is_true, p[rows], average="macro"))
    assert found["auprc"] == pytest.approx(
        sk.average_precision_score(is_true, p[rows], average="macro")
    )


def test_folds_are_pooled_so_a_fold_without_a_class_changes_nothing():
    frame = study()
    refolded = frame.assign(fold=frame["truth"])  # each fold shows a single class
    found, refound = (evaluate(each, CLASSES, {}).metrics for each in (frame, refolded))
    assert found == refound
    averaged = [
        sk.balanced_accuracy_score(rows["truth"], rows["predicted"])
        for _, rows in refolded.groupby("fold")
    ]
    assert found["balanced_accuracy"]["value"] == pytest.approx(np.mean(averaged))
    # What averaging over folds would lose: F1 of a fold that shows one class is another figure.
    averaged = [
        sk.f1_score(rows["truth"], rows["predicted"], average="macro", zero_division=0)
        for _, rows in refolded.groupby("fold")
    ]
    assert found["f1_macro"]["value"] == pytest.approx(
        sk.f1_score(frame["truth"], frame["predicted"], average="macro")
    )
    assert found["f1_macro"]["value"] > 2 * np.mean(averaged)


def test_intervals_are_wider_over_horses_than_over_images():
    frame = study(spread=2.0, n_images=100)
    over_horses = evaluate(frame, CLASSES, {}).metrics["accuracy"]
    images = frame.assign(horse=frame["image_id"])
    over_images = evaluate(images, CLASSES, {}).metrics["accuracy"]
    assert over_horses["value"] == over_images["value"]
    assert width(over_horses) > 2 * width(over_images)


def width(figure):
    return figure["high"] - figure["low"]


def test_a_class_shown_by_one_horse_has_no_interval_and_is_in_every_replicate():
    frame = study()
    only = (frame["truth"] == "alert") & (frame["horse"] != "horse 3")
    found = evaluate(frame[~only], CLASSES, {})
    alert = found.by_class.set_index("class").loc["alert"]
    assert alert["n_horses"] == 1
    assert np.isnan([alert["recall_low"], alert["recall_high"]]).all()
    assert found.metrics["balanced_accuracy"]["low"] > 0
    shows = np.array([[True, False], [True, False], [True, True]])
    draws = resample(shows, 50, np.random.default_rng(0))
    assert draws.shape == (50, 3)
    assert (draws[:, 2] > 0).all()


def test_a_baseline_is_compared_on_the_same_resamples():
    frame = study(spread=2.0)
    same = evaluate(frame, CLASSES, {"twin": frame["predicted"]}).metrics
    twin = same["baselines"]["twin"]["f1_macro"]
    # no resample differs, which is no interval
    assert twin["difference"] == {"value": 0.0, "low": None, "high": None}
    assert {key: twin[key] for key in ("value", "low", "high")} == same["f1_macro"]
    rng = np.random.default_rng(0)
    close = frame["predicted"].where(rng.random(len(frame)) < 0.95, "calm")
    paired = evaluate(frame, CLASSES, {"close": close}).metrics["baselines"]["close"]["accuracy"]
    assert paired["difference"]["low"] > 0
    assert width(paired["difference"]) < width(paired) / 3


def test_the_majority_baseline_is_at_chance():
    frame = study()
    label = evaluation.majority(frame["truth"])
    assert (frame["truth"] == label).mean() == frame["truth"].value_counts(normalize=True).max()
    constant = [label] * len(frame)
    row = evaluate(frame, CLASSES, {"majority": constant}).metrics["baselines"]["majority"]
    assert row["balanced_accuracy"]["value"] == pytest.approx(0.25)
    assert row["matthews_corrcoef"]["value"] == 0
    assert "log_loss" not in row


def with_sessions(frame, seed=0):
    rng = np.random.default_rng(seed)
    session = np.char.mod("s%d", rng.integers(0, 3, len(frame)))
    return frame.assign(session=session, video=None)


def test_levels_are_figures_of_pooled_probabilities():
    frame = with_sessions(study())
    found = evaluate(frame, CLASSES, {"calm": ["calm"] * len(frame)}).metrics["levels"]
    columns = [f"p_{label}" for label in CLASSES]
    for level, keys in (("session", ["horse", "session", "truth"]), ("horse", ["horse", "truth"])):
        means = frame.groupby(keys)[columns].mean().reset_index()
        guess = np.array(CLASSES)[means[columns].to_numpy().argmax(axis=1)]
        assert found[level]["n_units"] == len(means)
        assert found[level]["f1_macro"]["value"] == pytest.approx(
            sk.f1_score(means["truth"], guess, average="macro")
        )
        is_true = np.eye(4)[codes(means["truth"], CLASSES)]
        assert found[level]["auroc"]["value"] == pytest.approx(
            sk.roc_auc_score(is_true, means[columns])
        )
        constant = found[level]["baselines"]["calm"]["accuracy"]["value"]
        assert constant == pytest.approx((means["truth"] == "calm").mean())
    assert found["horse"]["accuracy"]["value"] > found["image"]["accuracy"]["value"]


def test_a_video_comes_before_a_session_and_without_either_there_is_no_such_level():
    frame = with_sessions(study()).assign(fold="0")
    half = np.arange(len(frame)) % 2 == 0
    videos = frame.assign(video=np.where(half, "s1", None))  # named as a session is
    found = levels.pooled(videos, "session", CLASSES, {})[0]
    expected = videos["video"].fillna("of " + frame["session"])
    assert len(found) == len(videos.groupby(["horse", expected, "truth"]))
    bare = frame.assign(session=None, video=None)
    assert list(evaluate(bare, CLASSES, {}).metrics["levels"]) == ["image", "horse"]


def test_the_same_seed_gives_the_same_metrics_in_any_order_of_rows():
    frame = study()
    shuffled = frame.sample(frac=1, random_state=3)
    first, second = evaluate(frame, CLASSES, {}), evaluate(shuffled, CLASSES, {})
    for name in evaluation.METRICS:
        assert first.metrics[name] == pytest.approx(second.metrics[name], rel=1e-12)
    pd.testing.assert_frame_equal(first.by_horse, second.by_horse)
    assert evaluate(frame, CLASSES, {}).metrics == first.metrics


def test_an_unknown_label_is_refused():
    frame = study()
    with pytest.raises(ValueError, match="'sad' is not among"):
        evaluate(frame, CLASSES, {"strange": ["sad"] * len(frame)})


def test_twenty_thousand_predictions_take_seconds():
    frame = study(n_horses=200, n_images=100)
    began = time.process_time()
    evaluate(frame, CLASSES, {"majority": ["calm"] * len(frame)}, n_bootstrap=2000)
    assert time.process_time() - began < 12  # of CPU; it takes 3


def test_predictors_are_compared_on_the_same_draws():
    frame = study(spread=2.0)
    rng = np.random.default_rng(0)
    worse = frame["predicted"].where(rng.random(len(frame)) < 0.9, "calm")
    p = frame[[f"p_{label}" for label in CLASSES]].to_numpy()
    found = evaluation.paired(
        frame["truth"], frame["horse"], {"a": frame["predicted"], "b": worse, "c": worse},
        classes=CLASSES, reference="a", probabilities={"a": p, "c": p[:, ::-1]}, n_bootstrap=200,
    )  # fmt: skip
    assert "auroc" not in found["b"]
    assert "difference" not in found["a"]["auroc"]
    assert found["c"]["auroc"]["difference"]["high"] < 0
    lead = evaluate(frame, CLASSES, {"b": worse}).metrics["baselines"]["b"]["accuracy"]
    for name in ("value", "low", "high"):
        mirrored = {"low": "high", "high": "low"}.get(name, name)
        assert found["b"]["accuracy"]["difference"][name] == pytest.approx(
            -lead["difference"][mirrored], abs=0.02
        )


def test_logistic_regression_chooses_its_penalty_on_the_inner_folds():
    rng = np.random.default_rng(6)  # macro-F1 and accuracy choose different penalties
    n, d = 240, 20
    horse = np.repeat(np.arange(12), n // 12)
    y = rng.choice(["a", "b", "c"], size=n, p=[0.6, 0.25, 0.15])
    X = 5 + 10 * rng.normal(size=(n, d)) + 10 * rng.normal(size=(12, d))[horse]  # horses differ
    X[:, 0] += 25 * (y == "b")
    X[:, 1] += 25 * (y == "c")
    X = X.astype(np.float32)
    train, inner = horse < 9, horse % 3

    def fitted(C, rows):
        head = LogisticRegression(C=C, class_weight="balanced", max_iter=2000)
        return make_pipeline(StandardScaler(), head).fit(X[rows], y[rows])

    def best(score):
        parts = [(train & (inner != k), train & (inner == k)) for k in range(3)]

        def mean(C):
            return np.mean(
                [score(y[held], fitted(C, rows).predict(X[held])) for rows, held in parts]
            )

        return max(evaluation.INVERSE_PENALTIES, key=mean)

    chosen = best(partial(sk.f1_score, average="macro"))
    assert chosen != best(sk.accuracy_score)
    guess = evaluation.logistic_regression(X[train], y[train], inner[train], X[~train], 1)
    np.testing.assert_array_equal(guess, fitted(chosen, train).predict(X[~train]))


def test_rare_classes_weigh_as_much_as_frequent_ones():
    rng = np.random.default_rng(1)
    y = (rng.random(400) < 0.05).astype(int)
    X = rng.normal(size=(400, 3)) + 1.2 * y[:, None]
    labels = np.array(["common", "rare"])[y]
    guess = evaluation.logistic_regression(X, labels, np.arange(400) % 2, X, n_threads=1)
    assert sk.balanced_accuracy_score(labels, guess) > 0.8


def test_tables_are_written_with_all_digits_and_printed_with_escapes(tmp_path):
    frame = study()
    found = evaluate(frame, CLASSES, {"majority": ["calm"] * len(frame)})
    write_json(tmp_path / "metrics.json", found.metrics)
    evaluation.write_tables(found, tmp_path)
    exact = pd.read_csv(tmp_path / "metrics.csv").set_index(["level", "predictor", "metric"])
    for name in ("value", "low", "high"):
        assert exact.loc[("image", "model", "f1_macro"), name] == pytest.approx(
            found.metrics["f1_macro"][name], rel=1e-12
        )
    printed = (tmp_path / "classes.tex").read_text()
    assert r"50 \% \$\_x" in printed
    assert r"\toprule" in printed
    assert evaluation.with_interval(0.7215, 0.65, 0.8) in "0.72 [0.65, 0.80]"
    for name in ("metrics", "classes", "confusion", "horses"):
        assert len(pd.read_csv(tmp_path / f"{name}.csv")) > 1
    assert r"Macro-F1 & " in (tmp_path / "metrics.tex").read_text()
