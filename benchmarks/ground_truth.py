"""How often the known cause of a drawn horse's emotion comes first, question by question.

    PYTHONPATH=workflow/scripts python benchmarks/ground_truth.py causes [--each 24] [--only TEXT]
    PYTHONPATH=workflow/scripts python benchmarks/ground_truth.py points|references [--each 24]

The demo's horses, backbone and settings, with the changes of each row: what the model sees, how
regions are given, what a photograph is compared with. In place of the search and its heads stands a
logistic regression on the average-pooled features, in four folds of horses. Right answers of the
classes that have a cause are explained, the first ``--each`` of each class, by the model that never
saw the horse. A study tells the same of its own models in explanation/checks.json, ``causes``.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import yaml
from equimood import (
    backbones,
    catalogue,
    demo,
    faithfulness,
    images,
    integrated_gradients,
    region_statistics,
    regions,
    settings,
    tables,
)
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import GroupKFold
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

FINE = 16
BLUR: dict[str, Any] = {"baseline": "blur", "neutral": None, "n_steps": 16}


@dataclass(frozen=True)
class Row:
    """What is changed of the demo's settings, and whether a shortcut alone tells *annoyed*."""

    name: str
    view: Mapping[str, Any]
    explain: Mapping[str, Any] = field(default_factory=dict)
    boxes: bool = False
    shortcut: demo.Shortcut | None = None


def head(margin: float) -> dict[str, Any]:
    """Frame the head with some room."""
    return {"box": "regions", "regions": ["head"], "margin": margin}


WHOLE: dict[str, Any] = {"box": "picture"}
NARROW = BLUR | {"blur": 0.1}
MANY = {"n_references": 24, "n_steps": 72}
DEMO = Row("head with a margin of 0.4, 16 neutral photographs (the demo)", head(0.4))
ROWS = [
    Row("whole, boxes as regions, blur", WHOLE, BLUR, boxes=True),
    Row("whole, blur", WHOLE, BLUR),
    Row("whole, narrow blur (0.1)", WHOLE, NARROW),
    Row("head with a margin of 0.15, blur", head(0.15), BLUR),
    Row("head with a margin of 0.4, blur", head(0.4), BLUR),
    Row("the same, narrow blur", head(0.4), NARROW),
    Row(
        "the same, neutral's logit held against the answer's", head(0.4),
        NARROW | {"target": "contrast", "contrast": "neutral"},
    ),
    Row("whole, 24 neutral photographs", WHOLE, MANY),
    Row("head with a margin of 0.15, 24 neutral photographs", head(0.15), MANY),
    DEMO,
    Row("the same, 24 neutral photographs", head(0.4), MANY),
    Row("the same, 12 neutral photographs", head(0.4), {"n_references": 12, "n_steps": 36}),
    Row("the same, 4 neutral photographs", head(0.4), {"n_references": 4, "n_steps": 16}),
    Row("halter: head, 24 neutral photographs", head(0.4), MANY, shortcut="halter"),
    Row("halter: head, blur", head(0.4), BLUR, shortcut="halter"),
    Row("bucket: whole, 16 neutral photographs", WHOLE, shortcut="bucket"),
    Row("bucket: whole, blur", WHOLE, BLUR, shortcut="bucket"),
]  # fmt: skip


class Linear(nn.Module):
    """The backbone and a linear head: logits (b, n_classes) of mean 0."""

    def __init__(self, backbone: backbones.Backbone, W: np.ndarray, b: np.ndarray):
        super().__init__()
        self.backbone = backbone
        self.W = torch.from_numpy(W - W.mean(0)).float()
        self.b = torch.from_numpy(b - b.mean()).float()

    def forward(self, pixels: Tensor) -> Tensor:
        """Map pixels (b, 3, side, side) to logits."""
        return self.backbone(pixels, ["avg"])["avg"] @ self.W.T + self.b


def main() -> None:
    """Print the share of right answers whose cause comes first, row by row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["causes", "points", "references"])
    parser.add_argument("--each", type=int, default=24, help="right answers of each class")
    parser.add_argument("--only", default="", help="rows whose name has this")
    parser.add_argument("--threads", type=int, default=2)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    study = settings.load(yaml.safe_load(Path("config.yaml").read_text()))
    with tempfile.TemporaryDirectory() as folder:
        spec = study.backbones["drawn"]
        backbones.fetch("drawn", spec, Path(folder) / "backbone", 0, Path(folder))
        backbone = backbones.load(Path(folder) / "backbone")
        for row in ROWS if asked.what == "causes" else [DEMO]:
            if asked.only in row.name:
                drawn = Path(folder) / str(row.shortcut)
                if not drawn.exists():
                    draw(drawn, row, asked.threads)
                began = time.perf_counter()
                told = WHAT[asked.what](row, drawn, backbone, study, asked.each)
                print(f"{row.name} ({time.perf_counter() - began:.0f} s): {told}", flush=True)


def draw(folder: Path, row: Row, workers: int) -> None:
    """Draw the demo, or the demo with the row's shortcut."""
    demo.draw_study(
        folder, shortcut=row.shortcut, workers=workers,
        shortcut_class="annoyed" if row.shortcut else None,
    )  # fmt: skip


def measured(
    row: Row, drawn: Path, backbone: backbones.Backbone, study: settings.Settings, each: int
) -> str:
    """Explain right answers; a line says how often the cause came first, of each class and all."""
    photos, given, pixels, affines = seen(row, drawn, backbone, study)
    explain = settings.Explain(**study.explain.model_dump() | row.explain)
    causes = region_statistics.read_causes(drawn / "causes.csv")
    if row.shortcut:
        causes = {"annoyed": causes["annoyed"]}
    with torch.no_grad():
        X = torch.cat([backbone(p.float() / 255, ["avg"])["avg"] for p in pixels.split(32)])
    rows_of, names = dict(list(given.groupby("image"))), regions.names(given)
    truth, predicted = photos["label"].to_numpy(), np.empty(len(photos), object)
    parts = []
    for train, test in GroupKFold(4).split(X, groups=photos["horse"]):
        model, classes = fitted(backbone, X[train].numpy(), truth[train])
        with torch.no_grad():
            logits = X[test] @ model.W.T + model.b
        predicted[test] = np.array(classes)[logits.argmax(1)]
        neutral = train[truth[train] == "neutral"]
        apart = np.linspace(0, len(neutral) - 1, explain.n_references).round().astype(int)
        for target in causes:
            own = test[(truth[test] == target) & (predicted[test] == target)][: -(-each // 4)]
            found = integrated_gradients.integrate(
                model,
                [pixels[own].float() / 255],
                torch.full((len(own),), classes.index(target)),
                explain,
                references=[pixels[neutral[apart]].float() / 255]
                if explain.baseline == "neutral"
                else None,
                against=torch.full((len(own),), classes.index(explain.contrast))
                if explain.contrast
                else None,
            )
            chosen = photos.iloc[own].assign(target=target)
            parts.append(scored(chosen, found.maps[0], affines, rows_of, names))
    top = region_statistics.causal(
        parts, causes, study.evaluate.n_bootstrap, study.evaluate.confidence, 0
    )
    accuracy = balanced_accuracy_score(truth, predicted.astype(str))
    told = [f"balanced accuracy {accuracy:.2f}"]
    for one in top.to_dict("records"):
        first, net = (
            f"{100 * one[rate]:.0f} % [{100 * one[low]:.0f}, {100 * one[high]:.0f}]"
            for rate, low, high in (
                ("top_rate", "top_low", "top_high"),
                ("top_net_rate", "top_net_low", "top_net_high"),
            )
        )
        told.append(
            f"    {one['target']:8} first in {first} of {one['n_images']:.0f}, on the whole in "
            f"{net}; enrichment {one['enrichment']:.1f}; else {one['instead']}"
        )
    return "\n".join(told)


@dataclass(frozen=True)
class Sample:
    """Photographs of the first fold, the model that never saw their horses, and neutral ones."""

    photos: pd.DataFrame
    model: Linear
    target: Tensor
    pixels: Tensor
    neutral: Tensor
    score: Callable[[Tensor], pd.Series]
    explain: settings.Explain

    @classmethod
    def of(
        cls,
        row: Row,
        drawn: Path,
        backbone: backbones.Backbone,
        study: settings.Settings,
        each: int,
    ) -> "Sample":
        """Take a quarter of ``each`` photographs of every class but the neutral one."""
        photos, given, pixels, affines = seen(row, drawn, backbone, study)
        with torch.no_grad():
            X = torch.cat([backbone(p.float() / 255, ["avg"])["avg"] for p in pixels.split(32)])
        truth = photos["label"].to_numpy()
        train, test = next(iter(GroupKFold(4).split(X, groups=photos["horse"])))
        model, classes = fitted(backbone, X[train].numpy(), truth[train])
        labels = [label for label in classes if label != "neutral"]
        own = np.concatenate([test[truth[test] == label][: -(-each // 4)] for label in labels])
        chosen = photos.iloc[own].assign(target=truth[own])
        rows_of, names = dict(list(given.groupby("image"))), regions.names(given)

        def score(maps: Tensor) -> pd.Series:
            scores = scored(chosen, maps, affines, rows_of, names)
            return scores.set_index(["image_id", "region"])["enrichment"]

        neutral = np.random.default_rng(0).permutation(train[truth[train] == "neutral"])
        target = torch.tensor([classes.index(label) for label in truth[own]])
        return cls(
            chosen, model, target, pixels[own].float() / 255, pixels[neutral].float() / 255,
            score, study.explain,
        )  # fmt: skip

    def explained(
        self, references: Tensor, n_steps: int, max_steps: int
    ) -> integrated_gradients.Integrated:
        """Explain the photographs against some of the neutral ones."""
        points = {"n_steps": n_steps, "max_steps": max_steps, "n_references": len(references)}
        asked = self.explain.model_copy(update=points)
        return integrated_gradients.integrate(
            self.model, [self.pixels], self.target, asked, [references]
        )


def points(*given: Any) -> str:
    """Say, by the points of an image, how far maps are from those of many points."""
    sample = Sample.of(*given)
    n = sample.explain.n_references
    fine = sample.explained(sample.neutral[:n], FINE * n, FINE * n)
    cells, truly = faithfulness.cells(fine.maps).numpy(), sample.score(fine.maps[0])
    told = []
    for first, most in ((2, 2 * n), (2, 128), (3, 3 * n), (3, 128), (4, 128), (6, 6 * n)):
        began = time.process_time()
        found = sample.explained(sample.neutral[:n], first * n, most)
        spent = (time.process_time() - began) / len(sample.photos)
        alike = faithfulness.rank_correlation(faithfulness.cells(found.maps).numpy(), cells)
        off = np.log(sample.score(found.maps[0]) / truly).abs()
        told.append(
            f"\n    from {first * n:3} to {most:3} points: gap {found.gap.median():.3f}, rank "
            f"correlation {np.median(alike):.2f}, enrichment off by {np.expm1(off.median()):.1%} "
            f"(95 %: {np.expm1(off.quantile(0.95)):.0%}), {found.steps.double().mean():.0f} "
            f"points, {spent:.2f} s of CPU"
        )
    return f"{len(sample.photos)} photographs" + "".join(told)


def references(*given: Any) -> str:
    """Say, by the number of neutral photographs, how like the maps against two sets are."""
    sample = Sample.of(*given)
    told = []
    for n in (4, 12, 24, 32, 48):
        began = time.process_time()
        one, other = (
            faithfulness.cells(
                sample.explained(sample.neutral[k * n : (k + 1) * n], 4 * n, 4 * n).maps
            ).numpy()
            for k in (0, 1)
        )
        spent = (time.process_time() - began) / len(sample.photos) / 2
        alike = np.median(faithfulness.rank_correlation(one, other))
        told.append(f"\n    {n:2} neutral photographs: {alike:.2f}, {spent:.2f} s of CPU")
    return f"{len(sample.photos)} photographs" + "".join(told)


def fitted(
    backbone: backbones.Backbone, X: np.ndarray, labels: np.ndarray
) -> tuple[Linear, list[str]]:
    """Fit a logistic regression to standardised features, and put it on the backbone."""
    scale = StandardScaler().fit(X)
    regression = LogisticRegression(C=0.1, class_weight="balanced", max_iter=2000)
    regression.fit(scale.transform(X), labels)
    W = regression.coef_ / scale.scale_
    model = Linear(backbone, W, regression.intercept_ - W @ scale.mean_)
    return model.eval(), list(regression.classes_)


def seen(
    row: Row, drawn: Path, backbone: backbones.Backbone, study: settings.Settings
) -> tuple[pd.DataFrame, pd.DataFrame, Tensor, list[np.ndarray]]:
    """Photographs, their regions, and what the backbone sees of each with its affine."""
    photos = pd.read_csv(drawn / "annotations.csv")
    given = tables.read_regions(drawn / "regions.csv", {})
    read = [images.read(drawn / "images" / name) for name in photos["image"]]
    photos["width"], photos["height"] = ([p.shape[axis] for p in read] for axis in (2, 1))
    photos = photos.assign(sha256="", reason=None, remedy=None)
    framed = catalogue.framed(photos, "view", settings.View(**row.view), given, study.ingest)
    squares, affines = zip(
        *(
            images.fit(picture, tuple(box), backbone.side, backbone.fit, backbone.interpolation,
                       backbone.crop_share)
            for picture, box in zip(read, framed[tables.BOX].astype(int).to_numpy(), strict=True)
        ),
        strict=True,
    )  # fmt: skip
    if row.boxes:
        given = boxed(given)
    return photos, given, torch.stack(squares), list(affines)


def boxed(given: pd.DataFrame) -> pd.DataFrame:
    """Put the box of each outline in its place."""
    given = given.copy()
    for i in given.index[given["visible"] & (given["kind"] == "points")]:
        points = tables.read_points(given.loc[i, "points"], 0)
        given.loc[i, tables.BOX] = [*points.min(0), *points.max(0)]
        given.loc[i, ["kind", "points"]] = ["box", None]
    return given


def scored(
    photos: pd.DataFrame,
    maps: Tensor,
    affines: list[np.ndarray],
    rows_of: Mapping[str, pd.DataFrame],
    names: list[str],
) -> pd.DataFrame:
    """Region scores of maps (n, side, side), as a study has them."""
    measures = [
        regions.of_image(
            one, rows_of[photo.image], affines[photo.Index], (photo.height, photo.width), ".", names
        )
        for one, photo in zip(maps, photos.itertuples(), strict=True)
    ]
    about = pd.DataFrame({
        "image_id": photos["image"], "photo_id": photos["image"], "view": "view",
        "horse": photos["horse"], "fold": "", "truth": photos["target"],
        "target": photos["target"], "correct": True, "model": "trained",
    })  # fmt: skip
    positive = maps.double().clamp(min=0).sum((1, 2)).numpy()
    return regions.table(about, np.stack(measures), positive, names)


WHAT = {"causes": measured, "points": points, "references": references}

if __name__ == "__main__":
    main()
