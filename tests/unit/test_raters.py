"""Agreement between raters, against published examples, scikit-learn and known noise."""

import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from equimood import figures, rater_pages, raters, tables
from equimood.raters import MIN_SHARED
from sklearn.metrics import cohen_kappa_score
from test_catalogue import CLASSES, Study, annotate, draw

VETS = Path(__file__).parents[3] / "shared/data/vet_ratings_25clips.csv"
BOOTSTRAP = {"n_bootstrap": 200, "confidence": 0.95, "seed": 1}

DIAGNOSES = np.array([int(n) for n in (
    "000600300301401000060303020400004022031020040000061005011040033001005002031005013001251000"
    "020401020300006010500201320040100410501040002020401050000006"
)]).reshape(30, 5)  # fmt: skip
"""Fleiss 1971: diagnoses of 30 patients by 6 psychiatrists each, in 5 categories."""

HAYES = np.array([
    [1, 2, 3, 3, 2, 1, 4, 1, 2, 0, 0, 0],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, 0, 3],
    [0, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, 0],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, 0],
])  # fmt: skip
"""Krippendorff 2011, "Computing Krippendorff's alpha-reliability": 4 observers, 12 units, gaps."""

SHROUT = np.array(
    [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]
)
"""Shrout and Fleiss 1979, table 2: six targets, four judges."""


def counted(codes, n_classes):
    """Ratings per class (n, C) of codes (raters, n) from 1, 0 where there is none."""
    return np.stack([(np.asarray(codes) == c).sum(axis=0) for c in range(1, n_classes + 1)], axis=1)


# Measures


def test_fleiss_kappa_is_that_of_his_own_example():
    assert raters.fleiss_kappa(DIAGNOSES) == pytest.approx(0.430, abs=5e-4)
    by_category = [
        raters.fleiss_kappa(np.stack([DIAGNOSES[:, c], 6 - DIAGNOSES[:, c]], axis=1))
        for c in range(5)
    ]
    np.testing.assert_allclose(by_category, [0.245, 0.245, 0.520, 0.471, 0.566], atol=5e-4)


def test_raters_may_differ_in_number():
    # Gwet's package irrCAC gives these for the same table (cac.raw4raters).
    counts = counted(HAYES, 5)
    assert raters.percent_agreement(counts) == pytest.approx(0.8181818)
    assert raters.fleiss_kappa(counts) == pytest.approx(0.76117, abs=5e-6)


@pytest.mark.parametrize(("codes", "alpha"), [
    (HAYES, 0.743),
    ([[1, 2, 1, 1, 1, 1, 1, 1, 2, 1], [2, 2, 2, 1, 1, 2, 1, 1, 1, 1]], 0.095),
    ([[1, 1, 2, 2, 4, 3, 3, 3, 5, 4, 4, 1], [2, 1, 2, 2, 2, 3, 3, 3, 5, 4, 4, 4]], 0.692),
])  # fmt: skip
def test_krippendorff_alpha_is_that_of_his_own_examples(codes, alpha):
    assert raters.krippendorff_alpha(counted(codes, 5)) == pytest.approx(alpha, abs=5e-4)


def test_cohen_kappa_is_scikit_learns_and_that_of_a_published_table():
    table = np.array([[13, 0, 0], [0, 20, 7], [0, 4, 56]])  # irrCAC: cont3x3abstractors
    assert raters.cohen_kappa(table) == pytest.approx(0.7964094)
    rng = np.random.default_rng(0)
    for _ in range(20):
        a, b = rng.integers(0, 4, (2, 50))
        b = np.where(rng.random(50) < 0.5, a, b)
        confusion = np.zeros((4, 4), int)
        np.add.at(confusion, (a, b), 1)
        assert raters.cohen_kappa(confusion) == pytest.approx(cohen_kappa_score(a, b))
    assert np.isnan(raters.cohen_kappa(np.array([[9, 0], [0, 0]])))  # nothing but one class


def test_specific_agreement_of_two_raters_is_the_f1_of_each_class():
    counts = counted([[1, 1, 1, 2, 2, 3], [1, 1, 2, 2, 3, 3]], 3)
    np.testing.assert_allclose(raters.specific_agreement(counts), [4 / 5, 2 / 4, 2 / 3])


def test_icc_is_that_of_shrout_and_fleiss():
    single, average = raters.icc(SHROUT)
    assert single == pytest.approx(0.29, abs=5e-3)
    assert average == pytest.approx(0.62, abs=5e-3)


def test_icc_of_29_veterinarians_is_as_published():
    if not VETS.is_file():
        pytest.skip(f"{VETS} is not here")
    scores = pd.read_csv(VETS, index_col="rater").to_numpy().T
    single, average = raters.icc(scores)
    assert single == pytest.approx(0.378, abs=5e-4)
    assert average == pytest.approx(0.946, abs=5e-4)


def test_a_replicate_counts_a_horse_as_often_as_it_is_drawn():
    rng = np.random.default_rng(1)
    horse = np.repeat(np.arange(6), 5)
    codes = rng.integers(0, 3, (30, 4))
    counts = np.stack([(codes == c).sum(axis=1) for c in range(3)], axis=1)
    sample = raters._Sample.draw(horse, 20, 0.95, seed=2)
    times = sample.weights.astype(int)
    assert (times[0] == 1).all() and (times[1:21].sum(axis=1) == 6).all()
    pair = raters._Compared.of(sample, codes[:, 0], codes[:, 1], 3)
    for b in range(21):
        rows = np.repeat(np.arange(30), times[b][horse])
        for measure in (
            raters.percent_agreement, raters.fleiss_kappa, raters.krippendorff_alpha,
            raters.specific_agreement,
        ):  # fmt: skip
            replicated = measure(counts, sample.total)[b]
            np.testing.assert_allclose(replicated, measure(counts[rows]))
        of_replicate = [of[b] for of in raters.icc(codes.astype(float), sample.total)]
        np.testing.assert_allclose(of_replicate, raters.icc(codes[rows].astype(float)))
        expected = cohen_kappa_score(codes[rows, 0], codes[rows, 1])
        assert pair.cohen_kappa[b] == pytest.approx(expected)


# From the table of annotations to the ceiling


NOISE, MODEL_NOISE = 0.15, 0.3
N_PHOTOS, N_HORSES = 400, 20
NAMES = ["anna", "<b>bea</b>", '"carl" & o\'hara']


@pytest.fixture(scope="module")
def rated(tmp_path_factory):
    """Three raters who take one class for the other at a known rate, through ingest."""
    rng = np.random.default_rng(3)
    study = Study(tmp_path_factory.mktemp("raters"))
    truth = rng.permutation(np.arange(N_PHOTOS) % 2)

    def seen_by_one(noise):
        wrong = rng.permutation(N_PHOTOS) < noise * N_PHOTOS
        return [CLASSES[seen] for seen in np.where(wrong, 1 - truth, truth)]

    for i in range(N_PHOTOS):
        draw(study.folder / f"{i}.png", seed=i, size=(40, 40))
    rows = [
        {"image": f"{i}.png", "horse": f"h{i % N_HORSES}", "rater": name, "label": label}
        for name in NAMES
        for i, label in enumerate(seen_by_one(NOISE))
    ]
    found = study.build(annotate(*rows))
    tables.write(found.ratings, study.folder / "ratings.parquet", tables.RATINGS)
    answer_of = {f"{i}.png": answer for i, answer in enumerate(seen_by_one(MODEL_NOISE))}
    predictions = found.images[["photo_id", "horse"]].assign(
        predicted=found.images["path"].map(answer_of), fold="0"
    )
    return tables.read(study.folder / "ratings.parquet"), predictions


def measured(ratings, ordered=False):
    panel = raters.panel(ratings, CLASSES)
    return panel, raters.agreement(panel, CLASSES, ordered, **BOOTSTRAP)


def test_the_agreement_of_raters_of_known_noise_is_found(rated):
    _, found = measured(rated[0], ordered=True)
    assert (found["n_photos"], found["n_horses"], found["n_raters"]) == (N_PHOTOS, N_HORSES, 3)
    equal = (1 - NOISE) ** 2 + NOISE**2
    kappa = 2 * equal - 1  # two classes, equally common
    expected = {"percent_agreement": equal, "cohen_kappa": kappa, "fleiss_kappa": kappa,
                "krippendorff_alpha": kappa, "icc_2_1": kappa}  # fmt: skip
    expected["icc_2_k"] = 3 * kappa / (1 + 2 * kappa)  # Spearman-Brown
    for measure, value in expected.items():
        assert found[measure]["value"] == pytest.approx(value, abs=0.06), measure
        assert found[measure]["low"] < value < found[measure]["high"], measure
    assert list(found["raters"]) == sorted(NAMES) and len(found["pairs"]) == 3
    for of in [*found["classes"].values(), *found["raters"].values()]:
        assert all(of[m]["value"] == pytest.approx(kappa, abs=0.1) for m in of if "kappa" in m)
    assert found["n_icc_photos"] == N_PHOTOS


def test_the_model_is_set_beside_the_raters_on_the_same_photographs(rated):
    ratings, predictions = rated
    panel = raters.panel(ratings, CLASSES)
    found = raters.ceiling(panel, predictions, CLASSES, **BOOTSTRAP)
    sure, known = 1 - 2 * NOISE, 1 - 2 * MODEL_NOISE
    # The other two agree where both are right or both wrong.
    others = 2 * (1 - NOISE) ** 2 / ((1 - NOISE) ** 2 + NOISE**2) - 1
    expected = {
        "pairwise": {"raters": sure**2, "model": sure * known},
        "consensus": {"raters": others * sure, "model": others * known},
    }
    for kind, kappas in expected.items():
        beside = found[kind]["cohen_kappa"]
        kappas["difference"] = kappas["model"] - kappas["raters"]
        for who, kappa in kappas.items():
            assert beside[who]["value"] == pytest.approx(kappa, abs=0.08), (kind, who)
            assert beside[who]["low"] < kappa < beside[who]["high"], (kind, who)
        assert beside["difference"]["high"] < 0  # the model is the worse rater, and it shows
    assert set(found["raters"]) == set(NAMES)

    # Photographs that no model judged count for nobody.
    half = predictions.iloc[::2]
    fewer = raters.ceiling(panel, half, CLASSES, **BOOTSTRAP)
    assert fewer["n_photos"] == len(half) == N_PHOTOS / 2
    own = ratings[ratings["photo_id"].isin(half["photo_id"])]
    alone = raters.ceiling(raters.panel(own, CLASSES), half, CLASSES, **BOOTSTRAP)
    assert fewer == alone


def test_the_majority_of_the_others_leaves_out_the_rater_and_ties():
    codes = np.array([[0, 1, 1], [0, 0, 1], [0, -1, -1], [-1, 1, 1], [1, 0, -1]])
    counts = np.stack([(codes == c).sum(axis=1) for c in (0, 1)], axis=1)
    counts[2] += [0, 2]  # two raters without a name
    panel = raters.Panel(np.arange(5).astype(str), np.arange(5), ["a", "b", "c"], codes, counts, 0)
    assert raters._others(panel, 0).tolist() == [1, -1, 1, -1, 0]


def test_raters_without_a_name_agree_but_are_not_compared(rated):
    ratings, predictions = rated
    panel, found = measured(ratings.assign(rater=None))
    _, named = measured(ratings)
    assert found["fleiss_kappa"] == named["fleiss_kappa"]
    assert found["cohen_kappa"]["value"] is None and found["n_raters"] == 0
    of_model = raters.ceiling(panel, predictions, CLASSES, **BOOTSTRAP)
    assert of_model["n_raters"] == 0 and "pairwise" not in of_model


def test_a_rater_who_contradicts_himself_is_left_out_of_that_photograph(rated):
    ratings, _ = rated
    first = ratings[ratings["rater"] == "anna"].iloc[[0]]
    other = first.assign(label=CLASSES[1 - CLASSES.index(first["label"].item())])
    panel = raters.panel(pd.concat([ratings, other]), CLASSES)
    row = panel.photo_id == first["photo_id"].item()
    assert panel.n_contradictions == 1
    assert panel.codes[row][0, panel.names.index("anna")] == -1 and panel.counts[row].sum() == 2


def test_raters_with_few_photographs_in_common_are_not_compared(rated):
    ratings, _ = rated
    chosen = ratings["photo_id"].unique()[: MIN_SHARED - 1]
    rare = ratings[(ratings["rater"] != "anna") | ratings["photo_id"].isin(chosen)]
    _, found = measured(rare)
    assert found["raters"]["anna"]["n_photos"] == MIN_SHARED - 1
    assert found["raters"]["anna"]["cohen_kappa"]["value"] is None
    assert [{pair["a"], pair["b"]} for pair in found["pairs"]] == [set(NAMES) - {"anna"}]


def test_one_rater_gives_pages_that_say_so(rated, tmp_path):
    ratings, predictions = rated
    panel, found = measured(ratings[ratings["rater"] == "anna"])
    assert found["n_photos"] == 0 and "percent_agreement" not in found
    of_model = raters.ceiling(panel, predictions, CLASSES, **BOOTSTRAP)
    assert "agreement cannot be stated" in rater_pages.agreement(found, b"")
    assert "cannot be set beside theirs" in rater_pages.ceiling(of_model, b"")
    for figure in (figures.agreement(found), figures.ceiling(of_model)):
        figures.save(figure, tmp_path / "figure", ["png"])
    assert raters.table_of_agreement(found).empty and raters.table_of_ceiling(of_model).empty


class Elements(HTMLParser):
    def __init__(self, page):
        super().__init__()
        self.tags, self.text = set(), ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)

    def handle_data(self, data):
        self.text += data


def test_pages_show_names_as_text_and_every_number(rated, tmp_path):
    panel, found = measured(rated[0], ordered=True)
    predictions = rated[1]
    of_model = raters.ceiling(panel, predictions, CLASSES, **BOOTSTRAP)
    json.dumps([found, of_model], allow_nan=False)
    (png,) = figures.save(figures.agreement(found), tmp_path / "agreement", ["png"])
    (other,) = figures.save(figures.ceiling(of_model), tmp_path / "ceiling", ["png"])
    pages = [
        rater_pages.agreement(found, png.read_bytes()),
        rater_pages.ceiling(of_model, other.read_bytes()),
    ]
    for page in map(Elements, pages):
        assert not page.tags & {"b", "script", "a"} and "img" in page.tags
        assert all(name in page.text for name in NAMES)
    assert rater_pages.printed(found["icc_2_k"]) in pages[0]
    difference = of_model["consensus"]["percent_agreement"]["difference"]
    assert rater_pages.printed(difference, "+.2f") in Elements(pages[1]).text
    flat = raters.table_of_agreement(found)
    assert flat["value"].notna().all()
    assert len(flat) == 6 + 2 * len(CLASSES) + 2 * 3 + 2 * 3
    assert len(raters.table_of_ceiling(of_model)) == (1 + 3) * 2 * 2 * 3
