import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from equimood import (
    backbones,
    embedding,
    figures,
    integrated_gradients,
    prediction,
    references,
    settings,
)
from equimood.errors import UserError
from equimood.heads import Head, Structure
from equimood.models import EmotionModel
from equimood.novelty import Novelty
from equimood.settings import Ingest, Predict, View
from equimood.tables import BOX
from PIL import Image

SIDE = 32
CLASSES = ["calm", "tense", "curious"]
BLUR = {"baseline": "blur"}
WHOLE = {"whole": View()}
BODY = {"body": View(box="annotations", margin=0.1)}
HEAD = {"head": View(box="regions", regions=["ear_left", "nostril_left"])}


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("backbone")
    spec = settings.Backbone(architecture="test_resnet", weights="random", input_px=SIDE)
    backbones.fetch("small", spec, folder, 1, folder / "hub")
    return backbones.load(folder)


@pytest.fixture
def model(backbone):
    """A model that looks at these views, its head drawn at random."""

    def make(views, threshold=0.0):
        random = torch.Generator().manual_seed(1)
        d = backbone.n_features["avg"] * len(views)
        weight = 3 * torch.randn(1, d, 1, len(CLASSES), generator=random)
        parts = {"weight": weight, "bias": torch.zeros(1, 1, 1, len(CLASSES))}
        head = Head(torch.zeros(d), torch.ones(d), parts)
        structure = Structure(tuple(views), "small", "avg", "linear", None, ("class",))
        horse = np.arange(60)
        novelty = Novelty.fitted(torch.randn(60, d, generator=random), horse, horse % 3, seed=1)
        return EmotionModel(backbone, head, structure, CLASSES, 1.3, threshold, novelty)

    return make


@pytest.fixture
def folder(tmp_path):
    """Three pictures, one in a folder of its own."""
    (tmp_path / "new/later").mkdir(parents=True)
    for seed, name in enumerate(["a.png", "b.JPG", "later/c.png"]):
        blocks = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), np.uint8)
        Image.fromarray(blocks).resize((80, 60)).save(tmp_path / "new" / name)
    (tmp_path / "new/notes.txt").write_text("not a picture")
    return tmp_path / "new"


def write(path, rows, columns):
    pd.DataFrame(rows, columns=columns).to_csv(path, index=False)
    return str(path)


def table(folder, *rows):
    return write(folder / "table.csv", rows, ["image", *BOX])


def region_table(folder, *rows):
    columns = ["image", "horse", "region", "kind", *BOX]
    return write(folder / "regions.csv", rows, columns)


def judged(model, predict, views, batch_size=2, **options):
    rows, regions, folder = prediction.asked(predict, views)
    framed, quarantine = prediction.frame(rows, regions, folder, views, Ingest())
    answers = list(prediction.predict(model(views), framed, folder, batch_size, **options))
    found = pd.concat([each for each, _ in answers]) if answers else None
    return found, quarantine, [example for _, examples in answers for example in examples]


def by_hand(model, path, *boxes):
    """Probabilities (n_classes,) of a picture from its views' boxes."""
    squares = [embedding.square(path, box, model.backbone)[0][None] for box in boxes]
    return model(*(embedding.pixels(each, "cpu") for each in squares)).softmax(1)[0].numpy()


def probabilities(found):
    return found[[f"p_{name}" for name in CLASSES]].to_numpy()


def test_a_folder_of_images_is_judged_by_the_whole_picture(model, folder):
    found, quarantine, examples = judged(model, Predict(images=str(folder)), WHOLE)
    assert found["image"].tolist() == ["a.png", "b.JPG", "later/c.png"]
    assert found["line"].tolist() == [1, 2, 3]
    assert quarantine.empty and examples == []
    for name, given in zip(found["image"], probabilities(found), strict=True):
        expected = by_hand(model(WHOLE), folder / name, (0, 0, 80, 60))
        np.testing.assert_allclose(given, expected, atol=1e-5)
    assert np.ptp(probabilities(found), axis=0).min() > 0.01  # the pictures differ
    assert found["predicted"].tolist() == [CLASSES[i] for i in probabilities(found).argmax(1)]


def test_an_unsure_answer_is_held_back_and_an_image_unlike_the_training_is_flagged(model, folder):
    found, _, _ = judged(model, Predict(images=str(folder)), WHOLE)
    assert found["answer"].tolist() == found["predicted"].tolist()  # a threshold of 0
    np.testing.assert_array_equal(found["confidence"], probabilities(found).max(axis=1))
    rows, regions, _ = prediction.asked(Predict(images=str(folder)), WHOLE)
    framed, _ = prediction.frame(rows, regions, folder, WHOLE, Ingest())
    seen = {}
    between = np.sort(found["confidence"])[:2].mean()
    for limit in (between, None):
        demanding = model(WHOLE, limit)
        squares = [embedding.square(folder / name, (0, 0, 80, 60), demanding.backbone)[0]
                   for name in rows["image"]]  # fmt: skip
        X = demanding.features(embedding.pixels(torch.stack(squares), "cpu"))
        # as if the limit lay between the first photograph's novelty and the others'
        distances = demanding.novelty(X)
        demanding.novelty.limit *= distances.sort().values[:2].mean()
        explain = settings.Explain(n_steps=4, map_px=8)
        ((answers, examples),) = prediction.predict(demanding, framed, folder, 8, explain)
        seen[limit] = answers
        assert answers["unlike_training"].tolist() == (demanding.novelty(X) > 1).tolist()
        assert answers["unlike_training"].sum() == 2
        for example, unsure, unlike in zip(
            examples, answers["answer"] == settings.NOT_SURE, answers["unlike_training"],
            strict=True,
        ):  # fmt: skip
            title = example.panel(CLASSES, 0.05, "PuOr", BLUR).get_suptitle()
            assert ("not sure, perhaps" in title, "Unlike the training" in title) == (
                unsure,
                unlike,
            )
    assert (seen[None]["answer"] == settings.NOT_SURE).all()
    (half,) = (answers for limit, answers in seen.items() if limit)
    assert (half["answer"] == settings.NOT_SURE).sum() == 1
    assert half["answer"].iloc[half["confidence"].argmin()] == settings.NOT_SURE
    assert half["predicted"].tolist() == found["predicted"].tolist()


def test_a_table_gives_each_image_its_box(model, folder):
    rows = [("b.JPG", 20, 10, 60, 40), ("a.png", 0, 0, 40, 60), ("b.JPG", *[None] * 4)]
    asked = Predict(images=table(folder, *rows))
    found, quarantine, _ = judged(model, asked, BODY)
    assert found[["line", "image"]].values.tolist() == [[2, "b.JPG"], [3, "a.png"]]
    boxes = [(16, 6, 64, 44), (0, 0, 46, 60)]  # with a tenth of the longer side around, clipped
    for name, box, given in zip(found["image"], boxes, probabilities(found), strict=True):
        np.testing.assert_allclose(given, by_hand(model(BODY), folder / name, box), atol=1e-5)
    assert quarantine[["line", "view", "reason"]].values.tolist() == [[4, "body", "no box"]]
    assert "view 'body'" in quarantine["remedy"].iloc[0]


def test_each_of_several_views_has_its_own_frame(model, folder):
    views = HEAD | BODY | WHOLE
    asked = Predict(
        images=table(folder, ("a.png", 20, 10, 60, 40), ("b.JPG", 0, 0, 50, 50)),
        regions=region_table(
            folder,
            ("a.png", None, "ear_left", "box", 0, 0, 20, 10),
            ("a.png", None, "nostril_left", "box", 30, 20, 40, 35),
            ("a.png", None, "neck", "box", 0, 0, 80, 60),
            ("b.JPG", "Comet", "neck", "box", 0, 0, 80, 60),
        ),
    )
    found, quarantine, _ = judged(model, asked, views)
    boxes = [(0, 0, 40, 35), (16, 6, 64, 44), (0, 0, 80, 60)]
    expected = by_hand(model(views), folder / "a.png", *boxes)
    np.testing.assert_allclose(probabilities(found), [expected], atol=1e-5)
    assert abs(by_hand(model(views), folder / "a.png", *boxes[::-1]) - expected).max() > 0.01
    assert quarantine[["image", "view", "reason"]].values.tolist() == [["b.JPG", "head", "no box"]]


def test_a_region_table_needs_no_column_horse_but_may_not_show_two_horses(model, folder):
    asked = Predict(
        images=str(folder),
        regions=region_table(
            folder,
            ("a.png", "Comet", "ear_left", "box", 0, 0, 40, 40),
            ("a.png", "Star", "ear_left", "box", 40, 0, 80, 40),
            ("b.JPG", "Star", "ear_left", "box", 40, 0, 80, 40),
        ),
    )
    found, quarantine, _ = judged(model, asked, HEAD)
    assert found["image"].tolist() == ["b.JPG"]
    reasons = quarantine.set_index("image")["reason"].to_dict()
    assert reasons == {"a.png": "contradictory: regions of several horses", "later/c.png": "no box"}
    nameless = pd.read_csv(asked.regions).query("image == 'b.JPG'").drop(columns="horse")
    nameless.to_csv(asked.regions, index=False)
    again, _, _ = judged(model, asked, HEAD)
    pd.testing.assert_frame_equal(again, found)


@pytest.mark.parametrize(
    ("images", "regions", "views", "messages"),
    [
        (None, None, WHOLE, ["predict.images: null; write the folder, or the table"]),
        ("empty", None, WHOLE, ["predict.images: no images in the folder empty; write the folder"]),
        ("nowhere", None, WHOLE, ["predict.images: no such folder or table nowhere; write the"]),
        ("new", None, BODY, ["new gives no boxes, but the model looks at the view 'body'"]),
        ("whole.csv", None, BODY, ["whole.csv gives no boxes", "image, x0, y0, x1, y1"]),
        ("swapped.csv", None, BODY, ["swapped.csv, line 2: x0, y0", "x1 is right of x0"]),
        ("new", None, HEAD, ["predict.regions: null", "box around ear_left, nostril_left; write"]),
        ("new", None, BODY | HEAD | WHOLE, ["predict.images: ", "\npredict.regions: null"]),
        ("new", "others.csv", HEAD, ["predict.regions: none of its images", "'x.png' against 'a."]),
    ],
)  # fmt: skip
def test_what_a_view_lacks_is_said_at_once(
    model, folder, monkeypatch, images, regions, views, messages
):
    monkeypatch.chdir(folder.parent)
    Path("empty").mkdir()
    write("whole.csv", [["new/a.png"]], ["image"])
    write("swapped.csv", [["new/a.png", 9, 0, 3, 5]], ["image", *BOX])
    others = [["x.png", "ear_left", "box", 1, 2, 30, 40]]
    write("others.csv", others, ["image", "region", "kind", *BOX])
    with pytest.raises(UserError) as refused:
        judged(model, Predict(images=images, regions=regions), views)
    assert all(message in str(refused.value) for message in messages)
    assert len(str(refused.value).splitlines()) == (2 if len(views) == 3 else 1)


def test_a_bad_image_is_refused_with_reason_and_remedy_and_the_others_are_judged(model, folder):
    whole = (folder / "b.JPG").read_bytes()
    (folder / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "dot.png").write_bytes(b"")
    Image.new("RGB", (80, 60)).save(folder / "night.png")
    Image.new("RGB", (80, 60), "white").save(folder.parent / "other.png")
    names = ["a.png", "cut.jpg", "dot.png", "night.png", "gone.png", "../other.png", "b.JPG"]
    asked = Predict(images=table(folder, *([name, *[None] * 4] for name in names)))
    found, quarantine, _ = judged(model, asked, WHOLE)
    assert found[["line", "image"]].values.tolist() == [[2, "a.png"], [8, "b.JPG"]]
    assert quarantine["line"].tolist() == [3, 4, 5, 6, 7]
    for reason, expected in zip(
        quarantine["reason"],
        ["truncated", "empty", "black or blank", "missing", "outside the image"],
        strict=True,
    ):
        assert reason.startswith(expected)
    assert quarantine["remedy"].str.len().all() and quarantine["view"].isna().all()
    remedy = f"no such file under {folder}; check predict.images and the spelling"
    assert quarantine["remedy"].iloc[3] == remedy


def test_odd_names_and_links_are_refused_alone_and_followed_inside_the_folder(model, folder):
    (folder / "link.png").symlink_to("a.png")
    (folder / "dead.png").symlink_to("gone.png")
    (folder / "loop.png").symlink_to("loop.png")
    (folder / "round").symlink_to("round")
    good = ["link.png", str(folder / "a.png")]
    bad = [
        "dead.png",
        "loop.png",
        "round/a.png",
        "x" * 300 + ".png",
        "A.png",
        "a\0.png",
        "\0/a.png",
    ]
    rows = pd.DataFrame({"line": range(2, 11), "image": good + bad}).reindex(
        columns=["line", "image", *BOX]
    )
    framed, quarantine = prediction.frame(rows, None, folder, WHOLE, Ingest())
    assert framed["whole"]["image"].tolist() == good
    assert quarantine["image"].tolist() == bad and set(quarantine["reason"]) == {"missing"}
    assert quarantine["remedy"].iloc[4] == "the folder has 'a.png': write the same letters"


@pytest.mark.parametrize("views", [WHOLE, BODY, BODY | WHOLE])
def test_nothing_but_bad_images_fails_and_leaves_the_list_where_it_says(
    model, folder, monkeypatch, views
):
    monkeypatch.chdir(folder.parent)
    asked = Predict(images=table(folder, ("gone.png", 1, 1, 50, 50), ("a.png", 90, 0, 99, 9)))
    if views == WHOLE:
        Image.new("RGB", (80, 60)).save(folder / "a.png")
    with pytest.raises(UserError, match="not one image could be judged; the first, 'gone") as told:
        judged(model, asked, views)
    listed = re.search(r"(\S+/quarantine.csv) lists them all \(2\)", str(told.value))[1]
    assert pd.read_csv(listed)["image"].unique().tolist() == ["gone.png", "a.png"]


@pytest.mark.parametrize("baseline", ["blur", "mean"])
def test_an_explanation_is_of_the_predicted_class_in_every_view(model, folder, tmp_path, baseline):
    views = WHOLE | BODY
    asked = Predict(images=table(folder, ("a.png", 20, 10, 60, 40), ("b.JPG", 0, 0, 40, 40)))
    explain = settings.Explain(n_steps=64, map_px=8, baseline=baseline)
    known = references.References((0.5, 0.5, 0.5)) if baseline == "mean" else None
    found, _, examples = judged(model, asked, views, explain=explain, known=known)
    assert [example.target for example in examples] == found["predicted"].tolist()
    for example, boxes in zip(
        examples,
        [[(0, 0, 80, 60), (16, 6, 64, 44)], [(0, 0, 80, 60), (0, 0, 44, 44)]],
        strict=True,
    ):
        assert [view.view for view in example.views] == ["whole", "body"]
        square = [embedding.square(folder / example.answer["image"], box, model(views).backbone)[0]
                  for box in boxes]  # fmt: skip
        pixels = [embedding.pixels(each[None], "cpu") for each in square]
        target = torch.tensor([CLASSES.index(example.target)])
        alone = integrated_gradients.integrate(
            model(views), pixels, target, explain, known and known.tensors("final", model(views))
        )
        for view, map_ in zip(example.views, alone.maps, strict=True):
            expected = integrated_gradients.shrink(map_, 8)[0].numpy()
            np.testing.assert_allclose(view.map, expected, atol=1e-3 * abs(expected).max())
            assert view.gap == pytest.approx(alone.gap.item(), abs=1e-3)
        figure = example.panel(CLASSES, explain.tolerance, "PuOr", explain.compared)
        name = example.answer["image"]
        assert figure.get_suptitle().startswith(f"{name}: predicted {example.target} (")
        (path,) = figures.save(figure, tmp_path / "panel", ["png"])
        assert path.stat().st_size > 10_000
