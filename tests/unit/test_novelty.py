import numpy as np
import pandas as pd
import pytest
import torch
from equimood import backbones, demo, embedding, novelty, settings
from equimood.novelty import Novelty
from equimood.reference import DEMO
from PIL import Image, ImageDraw
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    torch.set_num_threads(1)


def horses(n_horses, n_images, d, rng, world):
    """Features of images that vary along a few directions, horses more than their images."""
    along, scale = world
    horse = np.repeat(np.arange(n_horses), n_images)
    own = rng.normal(size=(n_horses, len(along)))[horse] + rng.normal(size=(len(horse), len(along)))
    X = 5 + (own @ along + rng.normal(size=(len(horse), d))) * scale
    return torch.from_numpy(X.astype(np.float32)), horse


@pytest.fixture(scope="module")
def world():
    rng = np.random.default_rng(3)
    return 2 * rng.normal(size=(8, 120)) / 8, rng.uniform(0.1, 4, 120)


def fitted(X, horse, seed=1):
    return Novelty.fitted(X, horse, horse % 3, seed)


def flagged(found, X):
    return (found(X) > 1).float().mean().item()


def test_a_distance_is_that_of_scikit_learns_likelihood(world):
    X, horse = horses(60, 40, 120, np.random.default_rng(0), world)
    found = fitted(X, horse)
    new, _ = horses(10, 20, 120, np.random.default_rng(1), world)
    others = X[horse % 3 != 1].double()
    scaler = StandardScaler().fit(others)
    law = PCA(20, svd_solver="full").fit(np.arcsinh(scaler.transform(others)))  # of 40 horses
    likelihood = law.score_samples(np.arcsinh(scaler.transform(new.double())))
    logdet = np.linalg.slogdet(law.get_covariance())[1]
    squares = -2 * likelihood - logdet - 120 * np.log(2 * np.pi)
    np.testing.assert_allclose(found.distance(new, 1).square() * 120, squares, rtol=0.01)


def test_the_limit_comes_from_horses_that_a_law_did_not_see(world):
    X, horse = horses(20, 20, 120, np.random.default_rng(0), world)
    found = fitted(X, horse)
    unseen = np.concatenate([found.distance(X[horse % 3 == fold], fold) for fold in range(3)])
    assert 0 < (unseen > float(found.limit)).mean() <= 0.01
    torch.testing.assert_close(
        found(X), sum(found.distance(X, fold) for fold in range(3)) / 3 / found.limit
    )


@pytest.mark.parametrize("n_horses", [12, 60])
def test_about_one_image_in_a_hundred_of_new_horses_is_flagged_and_nearly_all_others(n_horses):
    rng = np.random.default_rng(4)
    known, foreign = [], []
    for _ in range(4):
        world, other = ((rng.normal(size=(8, 120)) / 4, rng.uniform(0.1, 4, 120)) for _ in "ab")
        found = fitted(*horses(n_horses, 20, 120, rng, world))
        known.append(flagged(found, horses(200, 5, 120, rng, world)[0]))
        foreign.append(flagged(found, horses(20, 5, 120, rng, other)[0]))
    assert 0.0005 < np.mean(known) < 0.025
    assert np.mean(foreign) > 0.95


def test_a_feature_that_hardly_varied_does_not_decide_alone(world):
    X, horse = horses(30, 20, 120, np.random.default_rng(0), world)
    X[:, 7] = 0.0
    X[:, 8] = torch.where(torch.arange(600) % 600 == 0, 1e-3, 0.0)
    new, _ = horses(30, 20, 120, np.random.default_rng(1), world)
    found = fitted(X, horse)
    before = flagged(found, new)
    new[:, 7:9] = 10.0
    assert torch.isfinite(found(new)).all()
    assert flagged(found, new) < before + 0.3


def test_many_rows_are_sampled_by_the_seed_and_the_score_keeps_its_meaning(world, monkeypatch):
    X, horse = horses(30, 40, 120, np.random.default_rng(0), world)
    whole = fitted(X, horse)
    monkeypatch.setattr(novelty, "MAX_ROWS", 500)
    parts = [fitted(X, horse, seed) for seed in (1, 1, 2)]
    one, same, other = (part.state_dict() for part in parts)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["components"], other["components"])
    assert np.corrcoef(parts[0](X), whole(X))[0, 1] > 0.9
    monkeypatch.setattr(novelty, "MAX_FLOATS", 120 * 300)
    assert torch.isfinite(fitted(X, horse)(X)).all()
    monkeypatch.setattr(novelty, "CHUNK_ROWS", 7)
    torch.testing.assert_close(whole(X[:20]), whole(X)[:20])


def test_few_images_and_features_have_a_novelty():
    X = torch.randn(7, 2, generator=torch.Generator().manual_seed(0))
    found = fitted(X, np.arange(7))
    assert found.components.shape == (3, 1, 2)
    assert found(X).shape == (7,) and torch.isfinite(found(X)).all()


@pytest.fixture(scope="module")
def drawings(tmp_path_factory):
    """Features of the demo's horses, by its own backbone, and a function from pictures to them."""
    folder = tmp_path_factory.mktemp("drawings")
    demo.draw_study(folder, n_horses=18, n_sessions=1, images_per_session=5, seed=5)
    spec = settings.Backbone(**DEMO["backbones"]["drawn"])
    backbones.fetch("drawn", spec, folder / "drawn", 1, folder / "hub")
    backbone = backbones.load(folder / "drawn")

    def embedded(pictures):
        vectors = []
        for i, picture in enumerate(pictures):
            path = folder / f"{i}.png"
            picture.save(path)
            box = (0, 0, *picture.size)
            pixels = embedding.pixels(embedding.square(path, box, backbone)[0][None], "cpu")
            with torch.inference_mode():
                vectors.append(backbone(pixels, ["grid2"])["grid2"])
        return torch.cat(vectors)

    table = pd.read_csv(folder / "annotations.csv")
    pictures = [Image.open(folder / "images" / name).convert("RGB") for name in table["image"]]
    return embedded, pictures, pd.factorize(table["horse"])[0]


def foreign(kind, pictures):
    rng = np.random.default_rng(0)
    size = pictures[0].size
    for picture in pictures[:12]:
        if kind == "noise":
            yield Image.fromarray(rng.integers(0, 255, (*size[::-1], 3), np.uint8))
        elif kind == "inverted":
            yield Image.fromarray(255 - np.asarray(picture))
        else:
            drawn = Image.new("RGB", size, tuple(rng.integers(120, 255, 3).tolist()))
            pen, (w, h), dark = ImageDraw.Draw(drawn), size, tuple(rng.integers(0, 99, 3).tolist())
            pen.rectangle((0.2 * w, 0.45 * h, 0.8 * w, 0.9 * h), fill=dark)
            pen.polygon([(0.1 * w, 0.45 * h), (0.5 * w, 0.1 * h), (0.9 * w, 0.45 * h)], fill="red")
            pen.rectangle((0.45 * w, 0.65 * h, 0.55 * w, 0.9 * h), fill="yellow")
            yield drawn


@pytest.fixture(scope="module")
def of_drawn_horses(drawings):
    embedded, pictures, horse = drawings
    X = embedded(pictures)
    known = horse < 15
    return fitted(X[known], horse[known]), X[~known]


def test_drawings_of_new_horses_are_not_flagged(of_drawn_horses):
    found, new = of_drawn_horses
    assert flagged(found, new) < 0.1


@pytest.mark.parametrize("kind", ["noise", "inverted", "house"])
def test_pictures_of_something_else_are_flagged(drawings, of_drawn_horses, kind):
    embedded, pictures, _ = drawings
    assert flagged(of_drawn_horses[0], embedded(foreign(kind, pictures))) > 0.8
