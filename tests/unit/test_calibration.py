import json

import numpy as np
import pandas as pd
import pytest
from equimood import calibration, calibration_figures, figures
from scipy.special import expit, logit
from sklearn import metrics as sk
from sklearn.calibration import calibration_curve
from test_evaluation import CLASSES, study

N_BOOTSTRAP, CONFIDENCE = 300, 0.95


def judge(frame, temperature=1.0, target=0.9):
    temperatures = dict.fromkeys(frame["fold"].unique(), temperature)
    return calibration.judge(frame, temperatures, CLASSES, target, N_BOOTSTRAP, CONFIDENCE, 1)


def answers(slope, n_horses, n_images, rng, spread=0.3):
    """Confidences, answers right by known chances (log odds times ``slope``, shifted by horse)."""
    sure = 0.3 + 0.69 * rng.beta(2, 1.5, n_horses * n_images)
    horse = np.repeat(np.arange(n_horses), n_images)
    odds = slope * logit(sure) + spread * rng.normal(size=n_horses)[horse]
    return sure, rng.random(len(sure)) < expit(odds), horse.astype(str)


def error_of(sure, right, horse, seed=1):
    over = calibration._Horses.drawn(horse, N_BOOTSTRAP, CONFIDENCE, seed)
    return calibration._ece(sure, right, over)


def true_error(slope, spread=0.3):
    """Mean distance of these confidences from the share that is right, over horses without end."""
    rng = np.random.default_rng(9)
    sure = 0.3 + 0.69 * rng.beta(2, 1.5, 20_000)
    by_horse = expit(slope * logit(sure)[:, None] + spread * rng.normal(size=200))
    return np.abs(sure - by_horse.mean(axis=1)).mean()


def test_the_plain_error_is_that_of_scikit_learns_bins():
    sure, right, horse = answers(0.5, 20, 30, np.random.default_rng(0))
    right_share, mean_sure = calibration_curve(right, sure, n_bins=10, strategy="quantile")
    expected = np.abs(right_share - mean_sure).mean()  # 600 photographs, 60 in each bin
    assert error_of(sure, right, horse)["ece_plain"]["value"] == pytest.approx(expected)


@pytest.mark.parametrize(("slope", "told_from_chance"), [(1.0, (0, 0.1)), (0.4, (0.8, 1))])
def test_a_known_error_is_found_with_an_interval_that_holds_it(slope, told_from_chance):
    truth = true_error(slope)
    rng = np.random.default_rng(1)
    found = [error_of(*answers(slope, 25, 24, rng), seed=i) for i in range(60)]
    plain, ece = (
        np.array([each[name]["value"] for each in found]) for name in ("ece_plain", "ece")
    )
    assert abs(ece.mean() - truth) < plain.mean() - truth  # nearer, and from above
    holds = [each["ece"]["low"] <= truth <= each["ece"]["high"] for each in found]
    assert np.mean(holds) > 0.85
    beyond_chance = [each["ece_plain"]["value"] > each["ece_chance"]["high"] for each in found]
    assert told_from_chance[0] <= np.mean(beyond_chance) <= told_from_chance[1]


def test_bins_hold_equal_numbers_whatever_the_order_and_equal_confidences_stay_together():
    rng = np.random.default_rng(2)
    sure = rng.random(200)
    bins = calibration.equal_mass_bins(sure)
    assert np.bincount(bins).tolist() == [20] * 10
    order = rng.permutation(200)
    np.testing.assert_array_equal(calibration.equal_mass_bins(sure[order]), bins[order])
    tied = np.repeat([0.3, 0.9, 1.0], [5, 150, 45])
    assert pd.Series(calibration.equal_mass_bins(tied)).groupby(tied).nunique().eq(1).all()
    assert set(calibration.equal_mass_bins(sure[:25])) == {0, 1}  # few photographs, few bins
    assert set(calibration.equal_mass_bins(np.ones(50))) == {0}


def test_before_is_the_model_without_its_temperature():
    frame = study()
    hot = frame.copy()
    names = [f"p_{label}" for label in CLASSES]
    p = frame[names].to_numpy() ** (1 / 3)
    hot[names] = p / p.sum(axis=1, keepdims=True)
    cold, heated = judge(frame), judge(hot, temperature=3.0)
    for one, other in zip(cold["after"]["bins"], heated["before"]["bins"], strict=True):
        assert one["confidence"] == pytest.approx(other["confidence"])
        assert one["accuracy"] == other["accuracy"]
    assert heated["before"]["ece"]["value"] == pytest.approx(cold["after"]["ece"]["value"])
    assert heated["after"]["ece"]["value"] > heated["before"]["ece"]["value"]


@pytest.mark.parametrize("n_images", [10, 400])  # every confidence a point, and few of them
def test_the_curve_and_its_area_are_those_of_sorting(n_images):
    frame = study(n_images=n_images)
    found = judge(frame)
    sure = frame[[f"p_{label}" for label in CLASSES]].to_numpy().max(axis=1)
    right = (frame["truth"] == frame["predicted"]).to_numpy()
    risks = 1 - np.cumsum(right[np.argsort(-sure)]) / np.arange(1, len(sure) + 1)
    tolerance = 1e-9 if n_images == 10 else 0.005
    assert found["aurc"]["value"] == pytest.approx(risks.mean(), abs=tolerance)
    assert found["aurc"]["low"] < risks.mean() < found["aurc"]["high"] < found["error"]["value"]
    for point in found["curve"][::20]:
        chosen = sure >= point["threshold"]
        assert point["coverage"] == pytest.approx(chosen.mean())
        assert point["accuracy"]["value"] == pytest.approx(right[chosen].mean())
    assert found["curve"][-1]["coverage"] == 1
    assert len(found["curve"]) <= calibration.N_POINTS


def test_what_is_answered_is_counted_at_each_folds_own_threshold():
    frame = study(n_images=60)
    thresholds = {"0": 0.5, "1": 0.9, "2": np.nan, "3": 0.0}
    frame["threshold"] = frame["fold"].map(thresholds)
    frame["novelty"] = np.where(np.arange(len(frame)) % 50 == 0, 1.2, 0.8)
    found = judge(frame)
    sure = frame[[f"p_{label}" for label in CLASSES]].max(axis=1)
    kept = frame[sure >= frame["threshold"]]
    assert set(kept["fold"]) == {"0", "1", "3"}
    assert found["n_answered"] == len(kept)
    assert found["coverage"]["value"] == len(kept) / len(frame)
    right = sk.accuracy_score(kept["truth"], kept["predicted"])
    assert found["accuracy"]["value"] == pytest.approx(right)
    assert found["accuracy"]["low"] < right < found["accuracy"]["high"]
    for name, score in [("recall", sk.recall_score), ("precision", sk.precision_score)]:
        expected = score(kept["truth"], kept["predicted"], labels=CLASSES, average=None)
        assert [own[name]["value"] for own in found["classes"].values()] == pytest.approx(
            expected.tolist()
        )
    calm = found["classes"]["calm"]
    shown, answered = ((rows["truth"] == "calm").sum() for rows in (frame, kept))
    assert calm["coverage"]["value"] == answered / shown
    folds = {fold["fold"]: fold for fold in found["folds"]}
    assert folds["2"]["threshold"] is None and folds["2"]["n_answered"] == 0
    assert folds["3"]["n_answered"] == folds["3"]["n_images"]
    assert found["unlike_training"]["value"] == (frame["novelty"] > 1).mean()


def test_equal_predictions_give_equal_figures_in_any_order():
    frame = study()
    shuffled = frame.sample(frac=1, random_state=1)
    one, other = (json.dumps(judge(each, 1.5)) for each in (frame, shuffled))
    numbers = [pd.json_normalize(json.loads(text)) for text in (one, other)]
    pd.testing.assert_frame_equal(*numbers)


@pytest.mark.parametrize("thresholds", [[0.5, 0.6, np.nan, 0.7], [np.nan] * 4])
def test_tables_and_figures_say_what_was_found(tmp_path, thresholds):
    frame = study()
    frame["threshold"] = frame["fold"].map(dict(zip("0123", thresholds, strict=True)))
    found = judge(frame, 2.0)
    calibration.write_tables(found, tmp_path)
    assert json.loads((tmp_path / "calibration.json").read_text()) == found
    table = pd.read_csv(tmp_path / "calibration.csv", keep_default_na=False, na_values={"low": ""})
    everything = table[table["class"] == ""].set_index("figure")
    assert float(everything.loc["ece", "value"]) == found["after"]["ece"]["value"]
    assert list(table["class"].unique()) == ["", *CLASSES]
    latex = (tmp_path / "calibration.tex").read_text()
    assert r"50 \% \$\_x & " in latex and "nan" not in latex and "None" not in latex
    drawn = calibration_figures.drawn(found)
    assert list(drawn) == ["reliability", "coverage"]
    texts = {
        name: " ".join(t.get_text() for t in figure.findobj(lambda a: hasattr(a, "get_text")))
        for name, figure in drawn.items()
    }
    assert f"calibration error {found['after']['ece']['value']:.2f} [" in texts["reliability"]
    assert f"{found['aurc']['value']:.3f} [" in texts["coverage"]
    answered = f"answered {found['coverage']['value']:.0%}" in texts["coverage"]
    assert answered == (not np.isnan(thresholds).all())
    assert ("nothing is answered" in texts["coverage"]) != answered
    for name, figure in drawn.items():
        (path,) = figures.save(figure, tmp_path / name, ["png"])
        assert path.stat().st_size > 10_000


def test_one_horse_gives_figures_and_no_interval():
    found = judge(study(n_horses=1))
    assert found["after"]["ece"]["value"] >= 0
    assert found["after"]["ece"]["low"] is None
    assert all(point["accuracy"]["low"] is None for point in found["curve"])
    for figure in calibration_figures.drawn(found).values():
        figure.draw_without_rendering()
