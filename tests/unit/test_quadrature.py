"""The integral of gradients: captum's on the same nodes, refined where it must be, and bits."""

import logging

import numpy as np
import pytest
import timm
import torch
from captum.attr import IntegratedGradients, LayerAttribution, LayerGradCam
from equimood import comparators, integrated_gradients, quadrature, settings
from equimood.errors import UserError
from equimood.quadrature import Chunk
from torch import nn

SIDE = 32


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def networks():
    """A convolutional network and a transformer, curved enough to need refinement."""
    found = {}
    for name, options in (("test_resnet", {}), ("test_vit", {"img_size": SIDE})):
        torch.manual_seed(1)
        network = timm.create_model(name, num_classes=3, **options).eval().requires_grad_(False)
        with torch.no_grad():
            for weights in network.parameters():
                weights.mul_(3 if name == "test_vit" and weights.ndim > 1 else 1)
        found[name] = network
    return found


class Kinked(nn.Module):
    """Logit 0 is 0 until the mean grey passes 0.37, and rises from there; logit 1 is still."""

    def forward(self, *views):
        rise = sum((view.mean((1, 2, 3)) - 0.37).clamp(min=0) for view in views)
        return torch.stack([10 * rise, 0 * rise], 1)


class Quadratic(nn.Module):
    """Logit 0 is the sum of the squared pixels, logit 1 its half."""

    def forward(self, *views):
        squared = sum((view**2).sum((1, 2, 3)) for view in views)
        return torch.stack([squared, squared / 2], 1)


def pixels(n, seed=1, side=SIDE):
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(seed))


def explain(**changes):
    return settings.Explain(**{"n_steps": 6, "max_steps": 30, "tolerance": 0.01} | changes)


@pytest.mark.parametrize("n", [2, 3, 5, 16, 64])
def test_lobatto_is_exact_for_polynomials_and_symmetric(n):
    rule = quadrature.lobatto(n)
    for degree in range(min(2 * n - 2, 40)):
        assert rule.weights @ rule.t**degree == pytest.approx(1 / (degree + 1), rel=1e-10)
    assert rule.t[0] == 0 and rule.t[-1] == 1
    assert rule.t == pytest.approx(1 - rule.t[::-1], abs=1e-13)


@pytest.mark.parametrize(("name", "tolerance"), [("test_resnet", 0.002), ("test_vit", 0.0)])
def test_maps_are_captums_on_the_same_nodes_whether_refined_or_not(networks, name, tolerance):
    model, views = networks[name], pixels(4)
    target = torch.tensor([0, 1, 2, 1])
    found = integrated_gradients.integrate(model, [views], target, explain(tolerance=tolerance))
    steps = found.steps.tolist()
    assert max(steps) > 6  # some were refined
    starts = integrated_gradients.blur(views, SIDE)
    for i, (rule,) in enumerate(found.rules):
        alone = IntegratedGradients(model)._attribute(
            (views[i : i + 1],), (starts[i : i + 1],), target=int(target[i]), n_steps=steps[i],
            step_sizes_and_alphas=(rule.weights.tolist(), rule.t.tolist()),
        )[0].sum(1)[0]  # fmt: skip
        assert (found.maps[0][i] - alone).abs().max() < 1e-5 * alone.abs().max()


def test_captum_stays_selectable_with_its_own_rule(networks):
    model, views, target = networks["test_resnet"], pixels(3), torch.tensor([0, 1, 2])
    found = integrated_gradients.integrate(
        model, [views], target, explain(method="captum", n_steps=7)
    )
    starts = integrated_gradients.blur(views, SIDE)
    own, delta = IntegratedGradients(model).attribute(
        views, starts, target=target, n_steps=7, return_convergence_delta=True
    )
    assert torch.allclose(found.maps[0], own.sum(1), atol=1e-6)
    assert found.gap.numpy() == pytest.approx(
        (delta.abs() / found.change.abs().clamp(min=0.5)).numpy(), abs=1e-4
    )
    assert found.steps.tolist() == [7, 7, 7]


def test_points_are_added_only_to_images_above_the_tolerance_and_until_they_are_not(networks):
    model, views, target = networks["test_resnet"], pixels(8), torch.arange(8) % 3
    first = integrated_gradients.integrate(model, [views], target, explain(max_steps=6))
    limit = float(first.gap.median()) * 1.001
    found = integrated_gradients.integrate(
        model, [views], target, explain(tolerance=limit, max_steps=200)
    )
    kept = first.gap <= limit
    assert 0 < kept.sum() < 8
    assert (found.steps[kept] == 6).all()
    assert torch.equal(found.maps[0][kept], first.maps[0][kept])
    assert (found.gap <= limit).all()
    again = integrated_gradients.integrate(
        model, [views], target, explain(tolerance=0.0, max_steps=9)
    )
    assert (again.steps == 9).all()


def test_points_gather_where_the_gradient_jumps():
    views = torch.full((1, 3, SIDE, SIDE), 0.9)
    found = integrated_gradients.integrate(
        Kinked(), [views], torch.tensor([0]),
        explain(baseline="constant", constant=[0, 0, 0], n_steps=8, tolerance=1e-3),
        integrated_gradients.colour([0.0, 0.0, 0.0], 1),
    )  # fmt: skip
    (((rule,),), steps) = found.rules, int(found.steps)
    kink = 0.37 / 0.9
    assert steps < 30
    assert np.abs(rule.t - kink).min() < 2e-3
    assert np.mean(np.abs(rule.t - kink) < 0.1) > 0.5
    assert found.gap < 1e-3
    assert float(found.maps[0].sum()) == pytest.approx(10 * (0.9 - 0.37), rel=2e-3)
    evenly = np.linspace(0, 1, steps)
    missed = np.mean(evenly > kink) * 9 - 10 * (0.9 - 0.37)  # the gradient is 0, then 9
    assert abs(missed) / 5.3 > 10 * float(found.gap)


def test_every_evaluation_is_used_and_no_other_is_made(networks):
    seen = []

    class Counting(nn.Module):
        def forward(self, view):
            seen.append(view.flatten(1).double().sum(1).detach())
            return networks["test_resnet"](view)

    found = integrated_gradients.integrate(
        Counting(), [pixels(3)], torch.tensor([0, 1, 2]), explain(batch_size=1)
    )
    assert int(found.steps.sum()) == len(seen)
    assert len(torch.cat(seen).unique()) == len(seen)
    assert [len(rule.t) for (rule,) in found.rules] == found.steps.tolist()


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_an_image_gets_the_same_bits_whatever_it_is_explained_with(networks, name):
    model, views, target = networks[name], pixels(5), torch.tensor([0, 1, 2, 1, 0])
    together = integrated_gradients.integrate(model, [views], target, explain(batch_size=4))
    for i in (0, 3):
        others = [i, 4]
        alone = integrated_gradients.integrate(
            model, [views[others]], target[others], explain(batch_size=4)
        )
        assert torch.equal(alone.maps[0][0], together.maps[0][i])
        assert alone.steps[0] == together.steps[i]


def test_every_pass_has_the_same_shape(networks):
    shapes = set()

    class Watching(nn.Module):
        def forward(self, view):
            shapes.add(tuple(view.shape))
            return networks["test_resnet"](view)

    integrated_gradients.integrate(
        Watching(), [pixels(3)], torch.tensor([0, 1, 2]), explain(batch_size=4)
    )
    assert shapes == {(4, 3, SIDE, SIDE)}


class Short(nn.Module):
    """A network on a device that holds only a few rows."""

    def __init__(self, model, rows):
        super().__init__()
        self.model, self.rows, self.refused = model, rows, 0

    def forward(self, view):
        if len(view) > self.rows:
            self.refused += 1
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.model(view)


@pytest.mark.parametrize("method", ["integrated_gradients", "captum", "occlusion"])
def test_where_memory_is_short_it_goes_on_in_halves_and_says_so(networks, caplog, method):
    model, views, target = networks["test_resnet"], pixels(8), torch.arange(8) % 3
    asked = explain(batch_size=8, method=method)
    whole = integrated_gradients.integrate(model, [views], target, asked)
    chunk, short = Chunk(8), Short(model, 2)
    with caplog.at_level(logging.WARNING, logger="equimood"):
        for _ in range(2):
            found = integrated_gradients.integrate(short, [views], target, asked, chunk=chunk)
    assert chunk.rows == 2 and short.refused == 2  # 8 and 4, once for all
    assert caplog.text.count("memory is short") == 2
    assert torch.allclose(found.maps[0], whole.maps[0], atol=1e-5)
    with pytest.raises(torch.OutOfMemoryError):
        integrated_gradients.integrate(Short(model, 0), [views], target, asked)


def test_references_are_averaged_and_share_the_points():
    views, references = [pixels(2, 1, 8), pixels(2, 2, 8)], [pixels(3, 3, 8), pixels(3, 4, 8)]
    asked = explain(baseline="neutral", neutral="calm", n_references=3, n_steps=12)
    found = integrated_gradients.integrate(
        Quadratic(), views, torch.tensor([0, 1]), asked, references
    )
    for view, given, map_ in zip(views, references, found.maps, strict=True):
        exact = (view[:, None] ** 2 - given[None] ** 2).mean(1).sum(1)
        assert torch.allclose(map_, exact * torch.tensor([1, 0.5]).view(2, 1, 1), atol=1e-4)
    assert found.steps.tolist() == [12, 12]
    assert [len(rules) for rules in found.rules] == [3, 3]


def test_a_contrast_is_the_difference_of_two_scores(networks):
    model, views = networks["test_vit"], pixels(2)
    asked = explain(max_steps=6)
    target, against = torch.tensor([0, 1]), torch.tensor([2, 2])
    both = integrated_gradients.integrate(model, [views], target, asked, against=against)
    one, other = (
        integrated_gradients.integrate(model, [views], which, asked) for which in (target, against)
    )
    assert torch.allclose(both.maps[0], one.maps[0] - other.maps[0], atol=1e-5)
    assert torch.allclose(both.change, one.change - other.change, atol=1e-4)


# ---------------------------------------------------------------------------- captum's methods


def test_occlusion_is_the_change_of_the_score_where_a_window_is_replaced():
    views = pixels(2)
    asked = explain(method="occlusion", baseline="constant", constant=[0.5, 0.5, 0.5])
    found = integrated_gradients.integrate(
        Quadratic(), [views], torch.tensor([0, 1]), asked,
        integrated_gradients.colour([0.5, 0.5, 0.5], 1),
    )  # fmt: skip
    corner = (views[:, :, :2, :2] ** 2 - 0.25).sum((1, 2, 3))  # seen through the first window alone
    window = (views[:, :, :4, :4] ** 2 - 0.25).sum((1, 2, 3))
    expected = window * torch.tensor([1, 0.5])
    assert found.maps[0][:, 0, 0] == pytest.approx(expected.numpy(), rel=1e-3)
    assert not np.allclose(corner, window)
    assert found.gap.isnan().all()
    assert found.steps.tolist() == [1 + 15**2] * 2


class Pooled(nn.Module):
    """A model on one or two views, as ``models.EmotionModel`` is one."""

    pooling = "avg"

    def __init__(self, network, n_views, has_map=True):
        super().__init__()
        self.backbone = Backbone(network, has_map)
        self.head = nn.Linear(network.num_features * n_views, 3).requires_grad_(False)

    def logits(self, X):
        return self.head(X)

    def forward(self, *views):
        return self.logits(torch.cat([self.backbone(v, ["avg"])["avg"] for v in views], 1))


class Backbone(nn.Module):
    architecture = "some"

    def __init__(self, network, has_map):
        super().__init__()
        self.network = network
        self.n_features = {"avg": 1, "grid2": 4} if has_map else {"avg": 1}

    def forward(self, view, _):
        return {"avg": self.network.forward_features(view).mean((2, 3))}


def test_grad_cam_is_captums_in_every_view(networks):
    torch.manual_seed(2)
    network, target = networks["test_resnet"], torch.tensor([0, 2])
    views = [pixels(2, 1), pixels(2, 2)]
    model = Pooled(network, 2)
    found = integrated_gradients.integrate(model, views, target, explain(method="gradcam"))

    def second_view(view):  # captum keeps the map of the last view that passes
        return model.head(torch.cat([model.backbone(v, [])["avg"] for v in (views[0], view)], 1))

    own = LayerGradCam(second_view, comparators.last_map(model.backbone, views[0])).attribute(
        views[1].clone().requires_grad_(), target=target
    )
    grown = LayerAttribution.interpolate(own, (SIDE, SIDE), "bilinear")[:, 0]
    assert torch.allclose(found.maps[1], grown, atol=1e-6)
    assert found.maps[0].std() > 0 and not torch.allclose(found.maps[0], found.maps[1])
    alone = integrated_gradients.integrate(
        Pooled(network, 1), [views[0]], target, explain(method="gradcam")
    )
    assert alone.maps[0].shape == (2, SIDE, SIDE)
    assert found.gap.isnan().all() and found.steps.tolist() == [1, 1]


def test_grad_cam_is_refused_where_there_is_no_feature_map(networks):
    model = Pooled(networks["test_resnet"], 1, has_map=False)
    with pytest.raises(UserError, match="gradcam needs a feature map, which some has not"):
        integrated_gradients.integrate(
            model, [pixels(1)], torch.tensor([0]), explain(method="gradcam")
        )


def test_an_image_that_may_have_no_more_points_keeps_the_rule_of_high_order(networks):
    model, views = networks["test_vit"], pixels(2)
    given = (model, [views], torch.tensor([0, 1]))
    found = integrated_gradients.integrate(*given, explain(tolerance=0, n_steps=24, max_steps=24))
    assert found.rules[0][0].weights == pytest.approx(quadrature.lobatto(24).weights)
    assert found.gap.max() < 1e-4


def test_where_paths_meet_the_network_is_evaluated_once():
    class Counted(Quadratic):
        rows = 0

        def forward(self, *views):
            self.rows += len(views[0])
            return super().forward(*views)

    model, images, starts = Counted(), pixels(4), pixels(3, seed=2)
    target = torch.tensor([0, 1, 0, 1])
    chosen = explain(baseline="neutral", neutral="calm", n_references=3, n_steps=12, batch_size=1)
    found = integrated_gradients.integrate(model, [images], target, chosen, [starts])
    between = 4 * 3 * 2
    assert model.rows == 4 + 3 * 2 + between  # images; references for each of two classes
    assert found.steps.tolist() == [12] * 4
    expected = ((images[:, None] + starts) * (images[:, None] - starts)).sum(2).mean(1)
    expected = expected * torch.tensor([1, 0.5, 1, 0.5]).view(-1, 1, 1)  # gradients are linear
    assert torch.allclose(found.maps[0], expected, atol=1e-5)
