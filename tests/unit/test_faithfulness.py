"""The measures, where the truth is known: linear models, models of one corner, one view alone."""

import numpy as np
import pytest
import torch
from captum.metrics import sensitivity_max
from equimood import faithfulness
from equimood.faithfulness import CELLS, FRACTIONS
from scipy.stats import spearmanr
from torch import nn

SIDE = 60


class Linear(nn.Module):
    """Logits w·x and 0 for each view's weights (side, side); attribution against b is w (x - b)."""

    def __init__(self, *weights):
        super().__init__()
        self.weights = weights

    def forward(self, *views):
        score = sum(
            (view.mean(1) * w).sum((1, 2)) for view, w in zip(views, self.weights, strict=True)
        )
        return torch.stack([score, torch.zeros_like(score)], 1)

    def maps(self, views, starts):
        pairs = zip(views, starts, self.weights, strict=True)
        return [(view - start).mean(1) * w for view, start, w in pairs]


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def source(seed=1):
    return torch.Generator().manual_seed(seed)


def pictures(n=3, n_views=1, side=SIDE):
    return [torch.rand(n, 3, side, side, generator=source(i)) for i in range(n_views)]


def linear(n_views=1):
    """A linear model of the cells, not of single pixels, pictures, what covers them, target."""
    cells = [torch.randn(CELLS, CELLS, generator=source(9 + i)) for i in range(n_views)]
    size = SIDE // CELLS
    weights = [each.repeat_interleave(size, 0).repeat_interleave(size, 1) / 99 for each in cells]
    views = pictures(n_views=n_views)
    starts = [view.mean((2, 3), keepdim=True).expand_as(view) for view in views]
    return Linear(*weights), views, starts, torch.zeros(3, dtype=torch.long)


def corner(side=SIDE):
    weight = torch.zeros(side, side)
    weight[: side // 10, : side // 10] = 1.0  # a hundredth of the picture
    return weight


def area(curves):
    return np.trapezoid(curves, FRACTIONS)


@pytest.mark.parametrize("n_views", [1, 2])
def test_no_order_covers_or_uncovers_a_linear_model_faster_than_its_attribution(n_views):
    model, views, starts, target = linear(n_views)
    exact = faithfulness.cells(model.maps(views, starts))
    rivals = [torch.randn(exact.shape, generator=source(i)) for i in range(20)]
    rivals.append(faithfulness.edges(views))
    order = torch.stack([exact, *rivals])
    deletion = faithfulness.covered(model, views, starts, target, order, 7).numpy()
    insertion = faithfulness.covered(model, views, starts, target, -order, 7).numpy()[..., ::-1]
    assert (deletion[0] <= deletion[1:] + 1e-6).all()
    assert (insertion[0] >= insertion[1:] - 1e-6).all()
    assert (area(deletion[0]) < area(deletion[1:]) - 0.02).all()
    assert (area(insertion[0]) > area(insertion[1:]) + 0.02).all()


def test_a_curve_goes_from_the_photograph_to_what_covers_it_cell_by_cell():
    model, views, starts, target = linear(2)
    values = torch.randn(1, 3, 2 * CELLS**2, generator=source())
    curve = faithfulness.covered(model, views, starts, target, values, 5)[0]
    for points, at in ((views, 0), (starts, -1)):
        whole = model(*points).softmax(1)[:, 0]
        assert torch.allclose(curve[:, at], whole, atol=1e-6)
    n_covered = round(FRACTIONS[2] * 2 * CELLS**2)
    first = values[0, 1].argsort(descending=True)[:n_covered]
    by_hand = [view[1:2].clone() for view in views]
    size = SIDE // CELLS
    for cell in first.tolist():
        view, place = divmod(cell, CELLS**2)
        row, column = (size * k for k in divmod(place, CELLS))
        box = (slice(row, row + size), slice(column, column + size))
        by_hand[view][(0, slice(None), *box)] = starts[view][(1, slice(None), *box)]
    assert curve[1, 2] == pytest.approx(model(*by_hand).softmax(1)[0, 0].item(), abs=1e-6)


def test_covering_the_corner_that_a_model_looks_at_ends_its_answer_at_once():
    views = [view * 0.2 + 0.7 for view in pictures()]
    starts = [torch.zeros_like(view) for view in views]
    model, target = Linear(corner()), torch.zeros(3, dtype=torch.long)
    exact = faithfulness.cells(model.maps(views, starts))
    elsewhere = -exact
    curves = faithfulness.covered(
        model, views, starts, target, torch.stack([exact, elsewhere]), 64
    ).numpy()
    assert (curves[0, :, 0] > 0.99).all()
    assert np.allclose(curves[0, :, 1:], 0.5)  # a hundredth of the cells was all
    assert (curves[1, :, -2] > 0.9).all()


@pytest.mark.parametrize("side", [SIDE, 50])
def test_cells_share_out_the_whole_map_and_find_the_edge(side):
    maps = [torch.randn(2, side, side, generator=source(i)) for i in range(2)]
    found = faithfulness.cells(maps)
    assert found.shape == (2, 2 * CELLS**2)
    assert torch.allclose(found.sum(1), sum(each.sum((1, 2)) for each in maps), atol=1e-3)
    half = torch.zeros(1, 3, side, side)
    half[..., side // 2 :] = 1
    columns = faithfulness.edges([half]).view(CELLS, CELLS).sum(0)
    assert set(columns.nonzero()[:, 0].tolist()) <= {CELLS // 2 - 1, CELLS // 2}
    assert columns.sum() > 0


def test_hiding_a_region_of_a_linear_model_takes_its_attribution():
    model, views, starts, target = linear(2)
    whose = torch.tensor([0, 0, 1, 2, 2, 2])
    masks = [torch.rand(6, SIDE, SIDE, generator=source(i)) for i in range(2)]
    found = faithfulness.drops(model, views, starts, target, None, whose, masks, 4)
    maps = model.maps(views, starts)
    inside = sum((m[whose] * mask).sum((1, 2)) for m, mask in zip(maps, masks, strict=True))
    assert torch.allclose(found, inside, atol=1e-4)
    other = 1 - target  # whose logit is 0 throughout
    contrast = faithfulness.drops(model, views, starts, target, other, whose, masks, 4)
    assert torch.allclose(contrast, inside, atol=1e-4)
    turned = faithfulness.drops(model, views, starts, other, target, whose, masks, 4)
    assert torch.allclose(turned, -inside, atol=1e-4)
    assert faithfulness.rank_correlation(found[None].numpy(), inside[None].numpy())[0] == 1


def test_rank_correlations_are_those_of_scipy_and_a_constant_map_is_like_no_other():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(2, 4, 50)).round(1)  # with ties
    a[3] = 0.5
    found = faithfulness.rank_correlation(a, b)
    expected = [spearmanr(one, other).statistic for one, other in zip(a[:3], b[:3], strict=True)]
    assert found[:3] == pytest.approx(expected)
    assert found[3] == 0


def test_the_greatest_change_is_the_max_sensitivity_of_captum():
    model = Linear(torch.randn(SIDE, SIDE, generator=source()))
    views = pictures()

    def explain(pixels):
        return faithfulness.cells([(pixels**2).mean(1) * model.weights[0]])

    def as_captum_asks(inputs):
        return (explain(inputs[0] if isinstance(inputs, tuple) else inputs),)

    moves = [faithfulness.disturbed(views, 0.02, source(i))[0] for i in range(3)]
    own = explain(views[0]).numpy()
    ours = np.max([faithfulness.change(own, explain(moved).numpy()) for moved in moves], axis=0)
    together = torch.stack(moves, 1).flatten(0, 1)
    theirs = sensitivity_max(as_captum_asks, views[0], lambda _: together, n_perturb_samples=3)
    assert ours == pytest.approx(theirs.numpy(), rel=1e-5)
    assert (ours > 0).all()


def test_noise_is_as_strong_as_said_and_stays_a_picture():
    dark = torch.zeros(1, 3, SIDE, SIDE)
    (moved,) = faithfulness.disturbed([dark], 0.02, source())
    assert 0 < moved.max() <= 0.02
    assert moved.min() == 0
