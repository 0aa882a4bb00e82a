import hashlib
import itertools
import xml.etree.ElementTree as ElementTree

import numpy as np
import pandas as pd
import pytest
from equimood import evaluation, figures, permutation
from matplotlib import colors
from PIL import Image
from test_evaluation import CLASSES, study

FOLDS = ["0", "1", "2", "3"]


@pytest.fixture(scope="module")
def predictions():
    return study()


@pytest.fixture(scope="module")
def metrics(predictions):
    rng = np.random.default_rng(0)
    guesses = {
        "majority": ["calm"] * len(predictions),
        "logistic_regression": predictions["predicted"].where(rng.random(360) < 0.7, "cross"),
    }
    return evaluation.evaluate(predictions, CLASSES, guesses, 200, 0.95, 1).metrics


def trials(seed):
    rng = np.random.default_rng(seed)
    structures = itertools.product(
        ["whole", "head", "whole+head"], ["avg", "grid2"], [("linear", None), ("mlp", 64)]
    )
    rows = [
        {
            "trial": trial, "views": views, "backbone": "drawn", "pooling": pooling, "head": head,
            "hidden_units": units, "weight_by": "class", "learning_rate": rate, "weight_decay": 0.1,
            "dropout": 0.0, "label_smoothing": 0.0, "seed": head_seed,
            "score": rng.uniform(0.4, 0.8),
        }
        for trial, (views, pooling, (head, units)) in enumerate(structures)
        for rate in [0.001, 0.01]
        for head_seed in [0, 1]
    ]  # fmt: skip
    return pd.DataFrame(rows)  # hidden_units as Parquet gives them: floats, since some are null


def best(views, head, units):
    structure = {
        "views": views, "backbone": "drawn", "pooling": "avg", "head": head,
        "hidden_units": units, "weight_by": ["class"],
    }  # fmt: skip
    return {"metric": "f1_macro", "structure": structure}


@pytest.fixture(scope="module")
def bests():
    linear, mlp = best(["head"], "linear", None), best(["whole", "head"], "mlp", 64)
    return dict(zip(FOLDS, [linear, linear, mlp, linear], strict=True))


@pytest.fixture(scope="module")
def drawn(predictions, metrics, bests):
    images = predictions.assign(label=predictions["truth"], photo_id=predictions["image_id"])
    images = pd.concat([images.assign(view=view) for view in ("whole", "head")])
    searched = {fold: trials(int(fold)) for fold in FOLDS}
    null = pd.DataFrame(
        np.random.default_rng(0).normal(0.3, 0.02, (50, 4)), columns=permutation.FIGURES
    )
    null.iloc[0] = 0.7
    tested = {"permutation": permutation.tested(null, images.drop_duplicates("photo_id"))}
    return figures.evaluated(predictions, metrics | tested, searched, bests, images, CLASSES, null)


def texts(figure):
    return [t.get_text() for t in figure.findobj(lambda a: hasattr(a, "get_text")) if t.get_text()]


def test_every_figure_is_drawn_in_every_format(drawn, tmp_path):
    assert list(drawn) == [
        "catalogue", "confusion", "classes", "baselines", "levels", "horses", "search",
        "permutation",
    ]  # fmt: skip
    for name, figure in drawn.items():
        for path in figures.save(figure, tmp_path / name, ["png", "svg", "pdf"]):
            assert path.stat().st_size > 2000
        picture = Image.open(tmp_path / f"{name}.png").convert("L")
        assert np.asarray(picture).std() > 5
        assert picture.width < 2000
        ElementTree.parse(tmp_path / f"{name}.svg")
        assert b"/FontFile2" in (tmp_path / f"{name}.pdf").read_bytes()  # TrueType, embedded


def test_the_same_figure_gives_the_same_bytes(predictions, tmp_path):
    def digests(folder):
        table = evaluation.confusion(predictions, CLASSES)
        paths = figures.save(
            figures.confusion(table), tmp_path / folder / "f", ["png", "svg", "pdf"]
        )
        return [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]

    assert digests("a") == digests("b")
    assert b"CreationDate" not in (tmp_path / "a" / "f.pdf").read_bytes()
    assert "dc:date" not in (tmp_path / "a" / "f.svg").read_text()


def test_nothing_but_the_files_is_left(drawn, tmp_path):
    figures.save(drawn["classes"], tmp_path / "f", ["png", "pdf"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f.pdf", "f.png"]
    with pytest.raises(KeyError):
        figures.save(drawn["classes"], tmp_path / "g", ["bmp"])
    assert len(list(tmp_path.iterdir())) == 2


def test_a_users_label_is_drawn_as_it_stands(drawn, tmp_path):
    assert "50 % $_x" in texts(drawn["confusion"])
    assert not any(t.get_parse_math() for t in drawn["confusion"].findobj(figures.mpl.text.Text))
    unbalanced = ["$a", "b$", "_^{", "\\frac"]  # an error, were it mathematics
    frame = study(n_horses=4, n_images=10, classes=unbalanced)
    table = evaluation.confusion(frame, unbalanced)
    figures.save(figures.confusion(table), tmp_path / "odd", ["png", "svg"])


def test_the_confusion_matrix_shows_counts_and_row_shares(drawn, predictions):
    table = evaluation.confusion(predictions, CLASSES)
    shown = texts(drawn["confusion"])
    assert f"{table.loc['calm', 'calm']}" in shown
    share = table.loc["calm", "calm"] / table.loc["calm"].sum()
    assert f"{share:.0%}" in shown
    (picture,) = drawn["confusion"].axes[0].images
    np.testing.assert_allclose(picture.get_array().sum(axis=1), 1)


def test_the_catalogue_counts_a_photograph_once_whatever_its_views(drawn, predictions):
    n_calm = (predictions["truth"] == "calm").sum()
    assert f" {n_calm} in 12 horses" in texts(drawn["catalogue"])


def test_a_star_marks_the_structure_chosen_in_each_fold(drawn):
    axes = drawn["search"].axes[0]
    labels = [label.get_text() for label in axes.get_yticklabels()]
    stars = next(c for c in axes.collections if c.get_label() == "chosen in a fold")
    rows = sorted(labels[int(row)] for _, row in stars.get_offsets())
    assert rows == ["head · avg · linear"] * 3 + ["whole + head · avg · mlp 64"]
    assert len(labels) == 12
    assert any("backbone drawn" in text for text in texts(drawn["search"]))


def test_a_chosen_structure_is_shown_however_many_there_are(bests):
    searched = {fold: trials(int(fold)) for fold in FOLDS}
    axes = figures.search(searched, bests, n_shown=2).axes[0]
    labels = {label.get_text() for label in axes.get_yticklabels()}
    assert labels >= {"head · avg · linear", "whole + head · avg · mlp 64"}
    assert len(labels) <= 4


def test_dots_of_horses_keep_apart_and_stay_at_their_accuracy():
    rng = np.random.default_rng(0)
    places = np.sort(rng.uniform(0, 100, 200))
    widths = rng.uniform(4, 9, 200)
    offsets = figures._swarm(places, widths)
    gaps = np.hypot(places[:, None] - places, offsets[:, None] - offsets)
    reach = (widths[:, None] + widths) / 2
    np.fill_diagonal(gaps, np.inf)
    assert (gaps >= reach - 1e-3).all()


@pytest.mark.parametrize("n_classes", [2, 12])
@pytest.mark.parametrize("n_horses", [3, 500])
def test_small_and_large_studies_are_drawn(n_classes, n_horses, tmp_path):
    classes = [f"emotion number {c}" for c in range(n_classes)]
    frame = study(n_horses=n_horses, n_images=5, classes=classes)
    found = evaluation.evaluate(frame, classes, {}, 100, 0.95, 1)
    images = frame.assign(label=frame["truth"], photo_id=frame["image_id"])
    for name, figure in {
        "catalogue": figures.catalogue(images, classes),
        "confusion": figures.confusion(found.confusion),
        "classes": figures.classes(found.metrics),
        "horses": figures.horses(found.by_horse, 1 / n_classes),
    }.items():
        (path,) = figures.save(figure, tmp_path / name, ["png"])
        assert Image.open(path).width <= 1700


def test_colours_of_classes_differ_from_one_another_and_from_white():
    rgb = np.array([colors.to_rgb(color) for color in figures.class_colors(range(10)).values()])
    apart = np.linalg.norm(rgb[:, None] - rgb, axis=2) + 9 * np.eye(10)
    assert apart.min() > 0.25
    assert np.linalg.norm(1 - rgb, axis=1).min() > 0.5


def test_fine_tuning_stands_beside_frozen_features():
    ways = {"frozen_linear": 0.5, "last_blocks": 0.6, "all_blocks": 0.7, "scratch": 0.2}
    bests = {
        fold: {
            "ways": {way: {"score": score - 0.1 * (fold == "1" and way == "all_blocks") * 3,
                           "n_tried": 8} for way, score in ways.items()},
            "chosen": chosen,
        }
        for fold, chosen in (("0", "all_blocks"), ("1", "last_blocks"))
    }  # fmt: skip
    table = figures.exploration(bests)
    assert table[table["chosen"]][["fold", "way", "score"]].to_numpy().tolist() == [
        ["0", "all_blocks", 0.7], ["1", "last_blocks", 0.6],
    ]  # fmt: skip
    axes = figures.transfer(table, "f1_macro").axes[0]
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels[0] == "frozen features, linear head (8 tried)"
    assert len(labels) == 4
    stars = axes.collections[-1].get_offsets().tolist()
    assert sorted(stars) == [[0.6, 1.0], [0.7, 2.0]]
