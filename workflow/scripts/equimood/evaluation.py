"""How good the procedure is on horses it never saw: figures, intervals over horses, baselines.

Predictions of all outer folds are pooled before anything is counted, so a fold that lacks a class
loses nothing. Images of one horse resemble one another, so the horse is the unit of uncertainty: an
interval answers what another sample of horses would have shown.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, PredefinedSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from equimood import levels
from equimood.files import write_text
from equimood.intervals import Horses
from equimood.scoring import Scorer

METRICS = {  # scikit-learn's names, and how tables and figures call them
    "balanced_accuracy": "Balanced accuracy",
    "f1_macro": "Macro-F1",
    "accuracy": "Accuracy",
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "matthews_corrcoef": "Matthews correlation",
    "log_loss": "Log loss",
    "brier_score": "Brier score",
}
PREDICTORS = {
    "model": "Model",
    "logistic_regression": "Logistic regression",
    "majority": "Majority class",
}
BY_CLASS = {  # of one class, and how a Scorer calls them
    "recall": "recall",
    "precision": "precision",
    "f1": "f1",
    "auroc": "class_auroc",
    "auprc": "class_auprc",
}
INVERSE_PENALTIES = (0.0001, 0.001, 0.01, 0.1, 1.0)  # C of the logistic regression

Array = NDArray[Any]


@dataclass(frozen=True)
class Evaluation:
    """What was found on the pooled out-of-fold predictions.

    metrics : content of ``metrics.json``; see :func:`evaluate`.
    by_class : a row per class: n_images, n_horses, and BY_CLASS, each with _low and _high.
    by_horse : a row per horse: fold, n_images, n_correct, accuracy.
    confusion : images, true classes in rows and predicted classes in columns.
    """

    metrics: dict[str, Any]
    by_class: pd.DataFrame
    by_horse: pd.DataFrame
    confusion: pd.DataFrame


def evaluate(
    predictions: pd.DataFrame,
    classes: Sequence[str],
    baselines: Mapping[str, ArrayLike],
    n_bootstrap: int,
    confidence: float,
    seed: int,
) -> Evaluation:
    """Judge the model and its baselines on pooled out-of-fold predictions.

    Parameters
    ----------
    predictions : tables.PREDICTIONS with a column ``p_{class}`` per class; any order of rows.
    classes : in the study's order.
    baselines : per name, the labels it predicts for the rows of ``predictions``, shape (n_images,).

    Returns
    -------
    Evaluation whose ``metrics`` hold, for each of METRICS, ``{"value", "low", "high"}`` of the
    model; under ``baselines``, the same for each baseline (as far as labels alone can tell) and
    ``difference``, model minus baseline on the same resamples; under ``classes``, for each class
    n_images, n_horses, and the figures BY_CLASS; n_images, n_horses, n_folds, chance, confidence,
    n_bootstrap; and under ``levels``, per level of :mod:`equimood.levels`, ``unit`` (in words),
    n_units, and the same figures of its units.

    Notes
    -----
    Cluster bootstrap: each replicate draws as many horses as there are, with replacement, with all
    their images; replicates in which a class does not occur are drawn again. All levels and
    predictors share the draws. See :func:`equimood.intervals.interval`.
    """
    horses = Horses.of(_scorer(predictions, classes).shows, n_bootstrap, confidence, seed)
    found: dict[str, dict[str, Any]] = {}
    for level in levels.given(predictions):
        units, labels = levels.pooled(predictions, level, classes, baselines)
        about: dict[str, Any] = {"unit": levels.LEVELS[level], "n_units": len(units)}
        found[level] = about | _judged(units, classes, labels, horses)
    of_images = {
        name: told for name, told in found["image"].items() if name not in ("unit", "n_units")
    }
    for of_class in of_images["classes"].values():
        of_class["n_images"] = of_class["n_units"]
    metrics: dict[str, Any] = {
        **of_images,
        "levels": found,
        "n_images": len(predictions),
        "n_horses": len(horses.shows),
        "n_folds": int(predictions["fold"].nunique()),
        "chance": 1 / len(classes),
        "confidence": confidence,
        "n_bootstrap": n_bootstrap,
    }
    return Evaluation(
        metrics, by_class(metrics), by_horse(predictions), confusion(predictions, classes)
    )


def _judged(
    units: pd.DataFrame,
    classes: Sequence[str],
    baselines: Mapping[str, ArrayLike],
    horses: Horses,
) -> dict[str, Any]:
    """Score one level: see :func:`evaluate`."""
    model = _scorer(units, classes)
    scorers = {"model": model} | {
        name: Scorer.of(units["truth"], labels, units["horse"], classes)
        for name, labels in baselines.items()
    }
    figures = {name: scorer(horses.weights) for name, scorer in scorers.items()}
    compared = _compared(figures, horses, "model")
    judged: dict[str, Any] = compared.pop("model")
    judged["baselines"] = {
        name: {metric: _reversed(figure) for metric, figure in found.items()}
        for name, found in compared.items()
    }
    shown = model.confusion().sum(axis=(0, 2))
    judged["classes"] = {
        label: {"n_units": int(shown[c]), "n_horses": int(model.shows[:, c].sum())}
        | {
            name: horses.interval(figures["model"][key][:, c], name, of_class=c)
            for name, key in BY_CLASS.items()
        }
        for c, label in enumerate(classes)
    }
    return judged


def paired(
    truth: ArrayLike,
    horse: ArrayLike,
    predicted: Mapping[str, ArrayLike],
    *,
    classes: Sequence[str],
    reference: str,
    probabilities: Mapping[str, ArrayLike] | None = None,
    n_bootstrap: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, dict[str, Any]]:
    """Compare predictors on the same rows, with the same draws of horses for all of them.

    Parameters
    ----------
    truth, horse : (n,) labels, and names of horses.
    predicted : per predictor the labels it gives to the rows, (n,).
    classes : in the study's order.
    reference : the predictor that the others are compared with.
    probabilities : of predictors that have them, (n, C), columns in the order of ``classes``.

    Returns
    -------
    Per predictor and figure of METRICS (those of probabilities where it has them)
    ``{"value", "low", "high"}``, and ``difference``, itself minus the reference, of the same form,
    except for the reference itself and where one of the two has no such figure.
    """
    given = probabilities or {}
    scorers = {
        name: Scorer.of(truth, labels, horse, classes, given.get(name))
        for name, labels in predicted.items()
    }
    horses = Horses.of(scorers[reference].shows, n_bootstrap, confidence, seed)
    figures = {name: scorer(horses.weights) for name, scorer in scorers.items()}
    return _compared(figures, horses, reference)


def by_class(metrics: Mapping[str, Any]) -> pd.DataFrame:
    """Lay out ``metrics["classes"]`` as a table: see :class:`Evaluation`."""
    rows = []
    for label, found in metrics["classes"].items():
        row = {"class": label, **{key: found[key] for key in ("n_images", "n_horses")}}
        for name in BY_CLASS:
            row[name] = found[name]["value"]
            row |= {f"{name}_{bound}": found[name][bound] for bound in ("low", "high")}
        rows.append(row)
    table = pd.DataFrame(rows)
    return table.astype(dict.fromkeys(table.columns[3:], float))  # no interval is NaN


def by_horse(predictions: pd.DataFrame) -> pd.DataFrame:
    """Count every horse's images and those predicted right: see :class:`Evaluation`."""
    right = predictions["truth"] == predictions["predicted"]
    horses = predictions.assign(right=right).groupby("horse", sort=True)
    table = horses.agg(
        fold=("fold", "first"), n_images=("right", "size"), n_correct=("right", "sum")
    )
    table["accuracy"] = table["n_correct"] / table["n_images"]
    return table.reset_index()


def confusion(predictions: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    """Count images by true class (rows) and predicted class (columns), in the study's order."""
    counts = _scorer(predictions, classes).confusion().sum(axis=0)
    return pd.DataFrame(counts, index=list(classes), columns=list(classes))


def majority(labels: ArrayLike) -> str:
    """Return the most frequent label; of equals, the first in the alphabet."""
    values, counts = np.unique(np.asarray(labels, dtype=str), return_counts=True)
    return str(values[counts.argmax()])


def logistic_regression(
    X_train: Array, y_train: ArrayLike, inner_fold: ArrayLike, X_test: Array, n_threads: int
) -> Array:
    """Predict test rows by multinomial logistic regression on standardised features.

    C is chosen among INVERSE_PENALTIES by macro-F1 over the study's inner folds, as the search
    chooses heads; classes weigh the same.

    Parameters
    ----------
    X_train : (n, d) features.
    y_train : (n,) labels.
    inner_fold : (n,) inner fold of each row's horse.
    X_test : (m, d) features.

    Returns
    -------
    (m,) predicted labels.
    """
    pipeline = make_pipeline(
        StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=2000)
    )
    search = GridSearchCV(
        pipeline,
        {"logisticregression__C": INVERSE_PENALTIES},
        scoring="f1_macro",
        cv=PredefinedSplit(np.asarray(inner_fold)),
        error_score="raise",
    )
    with threadpool_limits(n_threads):
        search.fit(np.asarray(X_train, np.float32), np.asarray(y_train, dtype=str))
        return np.asarray(search.predict(np.asarray(X_test, np.float32)))


def summary(evaluation: Evaluation) -> pd.DataFrame:
    """Return one row per level, predictor and metric: value, low, high, and the model's lead."""
    rows = []
    for level, judged in evaluation.metrics["levels"].items():
        for predictor, figures in {"model": judged, **judged["baselines"]}.items():
            for name in (name for name in METRICS if name in figures):
                row = {"level": level, "predictor": predictor, "metric": name, **figures[name]}
                lead = row.pop("difference", {})
                rows.append(row | {f"difference_{key}": number for key, number in lead.items()})
    table = pd.DataFrame(rows)
    return table.astype(dict.fromkeys(table.columns[3:], float))


def write_tables(evaluation: Evaluation, folder: Path) -> None:
    """Write metrics, classes, confusion and horses as CSV with all digits, two of them as LaTeX."""
    whole = summary(evaluation)
    confused = evaluation.confusion.rename_axis("truth").reset_index()
    exact = {
        "metrics": whole,
        "classes": evaluation.by_class,
        "confusion": confused,
        "horses": evaluation.by_horse,
    }
    for name, table in exact.items():
        write_text(folder / f"{name}.csv", table.to_csv(index=False))
    write_text(folder / "metrics.tex", latex(_printed_metrics(whole)))
    write_text(folder / "classes.tex", latex(_printed_classes(evaluation.by_class)))


def latex(table: pd.DataFrame) -> str:
    """Return a LaTeX table (package booktabs) with every character of the user's escaped."""
    form = "".join("r" if pd.api.types.is_numeric_dtype(kind) else "l" for kind in table.dtypes)
    style = table.astype(str).style.hide(axis="index").format(escape="latex")
    return str(style.format_index(escape="latex", axis=1).to_latex(hrules=True, column_format=form))


def with_interval(value: float, low: float | None, high: float | None, form: str = ".2f") -> str:
    """Print a figure as ``0.72 [0.65, 0.80]``, or alone where it has no interval."""
    bounds = [bound for bound in (low, high) if bound is not None and not np.isnan(bound)]
    if len(bounds) < 2:
        return f"{value:{form}}"
    return f"{value:{form}} [{low:{form}}, {high:{form}}]"


def _with_intervals(rows: pd.DataFrame, *columns: str) -> list[str]:
    return [with_interval(*row) for row in rows[list(columns)].to_numpy(float)]


def _printed_metrics(whole: pd.DataFrame) -> pd.DataFrame:
    printed = pd.DataFrame({"Metric": list(METRICS.values())}, index=list(METRICS))
    for (predictor, level), rows in whole.groupby(["predictor", "level"], sort=False):
        title = PREDICTORS.get(str(predictor), str(predictor))
        if level != "image":
            if predictor != "model":
                continue
            title = f"{title}, by {level}"
        cells = _with_intervals(rows, "value", "low", "high")
        printed[title] = pd.Series(cells, index=rows["metric"])
    return printed.fillna("")


def _printed_classes(by_class: pd.DataFrame) -> pd.DataFrame:
    printed = by_class[["class", "n_images", "n_horses"]].copy()
    printed.columns = ["Class", "Images", "Horses"]
    for name in BY_CLASS:
        cells = _with_intervals(by_class, name, f"{name}_low", f"{name}_high")
        printed[METRICS.get(name, name.capitalize())] = cells
    return printed


def _scorer(units: pd.DataFrame, classes: Sequence[str]) -> Scorer:
    """Take the model's answers from a table with truth, predicted, horse and ``p_{class}``."""
    p = units[[f"p_{label}" for label in classes]].to_numpy(float)
    return Scorer.of(units["truth"], units["predicted"], units["horse"], classes, p)


def _compared(
    figures: Mapping[str, Mapping[str, Array]], horses: Horses, reference: str
) -> dict[str, dict[str, Any]]:
    """Lay out what :func:`paired` returns; ``figures`` per predictor on ``horses.weights``."""
    known = figures[reference]
    compared: dict[str, dict[str, Any]] = {}
    for predictor, found in figures.items():
        compared[predictor] = {}
        for name in (name for name in METRICS if name in found):
            told: dict[str, Any] = horses.interval(found[name], name)
            if predictor != reference and name in known:
                told["difference"] = horses.interval(
                    found[name] - known[name], name, difference=True
                )
            compared[predictor][name] = told
    return compared


def _reversed(figure: Mapping[str, Any]) -> dict[str, Any]:
    """Turn a difference to the model into the model's lead."""
    value, low, high = (figure["difference"][key] for key in ("value", "low", "high"))
    lead = {"value": 0 - value, "low": None if high is None else -high}
    return {**figure, "difference": lead | {"high": None if low is None else -low}}
