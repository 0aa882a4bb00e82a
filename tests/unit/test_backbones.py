import pickle
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from equimood import backbones, settings
from equimood.errors import UserError
from equimood.files import read_yaml
from safetensors.torch import load_file, save_file

SHARED_WEIGHTS = Path(__file__).parents[3] / "shared/data/weights"


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def fetch(folder, architecture="test_efficientnet", name="b", seed=0, hub_cache=None, **spec):
    spec = {"weights": "random", "input_px": 64} | spec
    spec = settings.Backbone(architecture=architecture, **spec)
    backbones.fetch(name, spec, folder, seed, hub_cache or folder / "hub")
    return folder


def fetched(folder, *args, **spec):
    return backbones.load(fetch(folder, *args, **spec))


def picture(side=64, seed=0):
    return torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(seed))


def test_a_fetched_backbone_is_the_network_that_was_asked_for(tmp_path):
    torch.manual_seed(0)
    network = timm.create_model("test_efficientnet", num_classes=0).eval()
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    asked = {"mean": (0.1, 0.2, 0.3), "std": (0.5, 0.6, 0.7)}
    backbone = fetched(tmp_path / "b", weights=str(tmp_path / "w.safetensors"), **asked)
    mean, std = (torch.tensor(asked[key]).view(3, 1, 1) for key in ("mean", "std"))
    with torch.inference_mode():
        expected = network.forward_features((picture() - mean) / std).mean((2, 3))
        found = backbone(picture(), ["avg"])["avg"]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    assert backbone.n_features["avg"] == found.shape[1] == 256
    assert (backbone.side, backbone.fit, backbone.crop_share) == (64, "squash", 1.0)


def test_null_settings_become_what_the_architecture_was_trained_with(tmp_path):
    backbone = fetched(tmp_path, input_px=None)
    config = timm.models.get_pretrained_cfg("test_efficientnet")
    assert (3, backbone.side, backbone.side) == config.input_size
    assert backbone.card["mean"] == list(config.mean)
    assert backbone.interpolation == config.interpolation


def test_the_cost_of_a_network_is_counted_as_by_hand(tmp_path):
    """A ResNet-18 without bias: a convolution costs its weights once at every place it writes."""
    network = timm.create_model("resnet18", num_classes=0)
    side = {}
    hooks = [
        module.register_forward_hook(lambda m, _, out: side.update({m: out[0, 0].numel()}))
        for module in network.modules() if isinstance(module, torch.nn.Conv2d)
    ]  # fmt: skip
    network.eval()(torch.zeros(1, 3, 64, 64))
    assert len(hooks) == 20
    macs = sum(conv.weight.numel() * places for conv, places in side.items())
    card = read_yaml(fetch(tmp_path, "resnet18") / "card.yaml")
    assert card["macs"] == macs


def test_the_cost_of_a_transformer_has_its_attention(tmp_path):
    """Of L tokens of d numbers, a block costs 12 L d² and attention 2 L² d (Vaswani 2017)."""
    card = read_yaml(fetch(tmp_path, "test_vit", input_px=160) / "card.yaml")
    network = timm.create_model("test_vit", num_classes=0)
    d, n_blocks, patch = network.embed_dim, len(network.blocks), network.patch_embed.patch_size[0]
    n_patches = (160 // patch) ** 2
    tokens, hidden = n_patches + 1, network.blocks[0].mlp.fc1.out_features
    block = tokens * (4 * d * d + 2 * d * hidden) + 2 * tokens**2 * d
    assert card["macs"] == n_patches * 3 * patch**2 * d + n_blocks * block


def test_a_backbone_stays_frozen_and_in_evaluation_mode(tmp_path):
    backbone = fetched(tmp_path)
    before = backbone(picture(), ["avg"])["avg"]
    torch.nn.Sequential(backbone).train()
    assert torch.equal(backbone(picture(), ["avg"])["avg"], before)
    assert not any(parameter.requires_grad for parameter in backbone.parameters())


@pytest.mark.parametrize(
    ("architecture", "pooling"),
    [("test_efficientnet", "grid2"), ("test_resnet", "avg"), ("test_vit", "cls4_mean")],
)
def test_features_are_differentiable_in_the_pixels(tmp_path, architecture, pooling):
    backbone = fetched(tmp_path, architecture).to(torch.float64)
    pixels = picture()[:1].double().requires_grad_()
    before = pixels.detach().clone()
    score = torch.sin(torch.arange(backbone.n_features[pooling]).double())

    def forward(x):
        return (backbone(x, [pooling])[pooling].double() @ score).sum()

    (gradient,) = torch.autograd.grad(forward(pixels), pixels)
    step = torch.sin(torch.arange(pixels.numel()).double()).view_as(pixels)
    with torch.no_grad():
        slope = (forward(pixels + 1e-3 * step) - forward(pixels - 1e-3 * step)) / 2e-3
    torch.testing.assert_close((gradient * step).sum(), slope, rtol=0.05, atol=1e-4)
    assert gradient.abs().sum() > 0
    assert torch.equal(pixels, before)


def test_vit_poolings_are_those_of_the_dinov2_evaluation(tmp_path):
    backbone = fetched(tmp_path, "test_vit")
    network, outputs = backbone.network, []
    for block in network.blocks:
        block.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    pooled = backbone(picture(), backbones.CLASS_TOKEN_POOLINGS)
    last = [network.norm(output) for output in outputs]
    tokens, mean = [block[:, 0] for block in last], last[-1][:, 1:].mean(1)
    expected = {
        "avg": mean,
        "cls": tokens[-1],
        "cls_mean": torch.cat([tokens[-1], mean], 1),
        "cls4": torch.cat(tokens[-4:], 1),
        "cls4_mean": torch.cat([*tokens[-4:], mean], 1),
    }
    for pooling, vectors in expected.items():
        torch.testing.assert_close(pooled[pooling], vectors, msg=pooling)
        assert backbone.n_features[pooling] == vectors.shape[1]
        alone = backbone(picture(), [pooling])[pooling]
        assert torch.equal(alone, pooled[pooling])


def test_register_tokens_are_not_patches(tmp_path):
    # One register and no class token; its last norm comes after the pooling.
    backbone = fetched(tmp_path, "test_vit2")
    tokens = backbone.network.forward_features((picture() - backbone.mean) / backbone.std)
    assert backbone.network.num_prefix_tokens == 1
    expected = backbone.network.fc_norm(tokens[:, 1:].mean(1))
    torch.testing.assert_close(backbone(picture(), ["avg"])["avg"], expected)
    assert list(backbone.n_features) == ["avg"]


@pytest.mark.parametrize("architecture", ["test_resnet", "test_mambaout"])
def test_maps_are_pooled_over_space_whatever_their_memory_order(tmp_path, architecture):
    backbone = fetched(tmp_path, architecture, input_px=224)  # a map of 7 × 7: bins overlap
    maps = backbone.network.forward_features((picture(224) - backbone.mean) / backbone.std)
    if architecture == "test_mambaout":
        assert maps.shape[1:] == (7, 7, 64)
        maps = maps.permute(0, 3, 1, 2)
    pooled = backbone(picture(224), ["grid3", "avg", "grid2"])
    for pooling, side in {"avg": 1, "grid2": 2, "grid3": 3}.items():
        expected = F.adaptive_avg_pool2d(maps, side).flatten(1)
        torch.testing.assert_close(pooled[pooling], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("architecture", "pooling", "valid"),
    [
        ("test_vit2", "cls", "avg"),
        ("test_efficientnet", "cls", "avg, grid2, grid3"),
        ("test_vit", "grid2", "avg, cls, cls_mean, cls4, cls4_mean"),
    ],
)
def test_a_pooling_that_the_architecture_lacks_is_refused(tmp_path, architecture, pooling, valid):
    with pytest.raises(UserError, match=rf"b\.poolings: .*no '{pooling}'; write some of {valid}$"):
        fetch(tmp_path, architecture, poolings=[pooling])
    assert not (tmp_path / "card.yaml").exists()


def test_the_architecture_is_checked_with_a_suggestion(tmp_path):
    with pytest.raises(UserError, match=r"did you mean .*vit_small_patch14_dinov2"):
        fetch(tmp_path, "vit_smal_patch14_dinov2")
    with pytest.raises(UserError, match=r"did you mean .*test_vit\.r160_in1k"):
        fetch(tmp_path, "test_vit.r16_in1k")
    with pytest.raises(UserError, match=r"model_args: .*depht"):
        fetch(tmp_path, model_args={"depht": 3})
    with pytest.raises(UserError, match="neither a feature map nor a row of tokens"):
        fetch(tmp_path, "crossvit_tiny_240", input_px=240)


def test_the_input_size_reaches_networks_of_fixed_size(tmp_path):
    assert fetched(tmp_path / "a", "test_vit", input_px=96).network.patch_embed.grid_size == (6, 6)
    by_args = fetched(tmp_path / "c", "test_vit", input_px=None, model_args={"img_size": 96})
    assert by_args.side == 96
    with pytest.raises(UserError, match="gives no features for an input of 64 px"):
        fetch(tmp_path / "d", "deit_tiny_patch16_224", input_px=64, model_args={"img_size": 96})


def weights_file(path, architecture="test_efficientnet", **args):
    torch.manual_seed(3)
    weights = timm.create_model(architecture, **args).state_dict()
    save_file(weights, path) if path.suffix == ".safetensors" else torch.save(weights, path)
    return str(path)


def test_a_file_gives_the_same_backbone_in_either_format_and_wrapping(tmp_path):
    plain = fetched(tmp_path / "a", weights=weights_file(tmp_path / "w.safetensors"))
    pth = fetched(tmp_path / "b", weights=weights_file(tmp_path / "w.pth"))
    wrapped = {"state_dict": {f"module.{k}": v for k, v in torch.load(tmp_path / "w.pth").items()}}
    torch.save(wrapped | {"epoch": 3}, tmp_path / "x.pth")
    trained = fetched(tmp_path / "c", weights=str(tmp_path / "x.pth"))
    assert plain.fingerprint == pth.fingerprint == trained.fingerprint
    assert "w.pth, sha256" in pth.card["source"]


def test_the_classifier_is_dropped(tmp_path):
    fetch(tmp_path / "a", weights=weights_file(tmp_path / "w.pth", num_classes=7))
    fetch(tmp_path / "b", weights=weights_file(tmp_path / "x.pth", num_classes=0))
    names = set(load_file(tmp_path / "a/weights.safetensors"))
    assert names == set(load_file(tmp_path / "b/weights.safetensors"))
    assert not any(name.startswith("classifier") for name in names)


def test_half_precision_weights_are_kept_and_computed_in_single(tmp_path):
    weights = load_file(weights_file(tmp_path / "w.safetensors"))
    save_file({k: v.half() if v.is_floating_point() else v for k, v in weights.items()},
              tmp_path / "half.safetensors")  # fmt: skip
    backbone = fetched(tmp_path / "b", weights=str(tmp_path / "half.safetensors"))
    stored = load_file(tmp_path / "b/weights.safetensors")
    assert stored["conv_stem.weight"].dtype == torch.float16
    assert backbone.network.conv_stem.weight.dtype == torch.float32
    assert backbone(picture(), ["avg"])["avg"].dtype == torch.float32


def test_a_file_that_holds_code_is_refused_and_not_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"state_dict": {}, "extra": Trap()}, tmp_path / "w.pth")
    (tmp_path / "old.pth").write_bytes(pickle.dumps({"state_dict": Trap()}))
    for name in ("w.pth", "old.pth"):
        with pytest.raises(UserError, match=rf"b\.weights: .*{name} holds code.*never run"):
            fetch(tmp_path / "b", weights=str(tmp_path / name))
    assert not (tmp_path / "ran").exists()


def test_weights_that_do_not_fit_are_named(tmp_path):
    weights = load_file(weights_file(tmp_path / "w.safetensors"))
    weights["stranger"] = torch.zeros(1)
    del weights["bn1.weight"]
    weights["conv_stem.weight"] = torch.zeros(4, 3, 5, 5)
    save_file(weights, tmp_path / "w.safetensors")
    with pytest.raises(UserError) as refused:
        fetch(tmp_path / "b", weights=str(tmp_path / "w.safetensors"))
    message = str(refused.value)
    assert "b.weights" in message
    assert "1 missing (bn1.weight)" in message
    assert "1 unexpected (stranger)" in message
    assert "conv_stem.weight is (4, 3, 5, 5), not (" in message


@pytest.mark.parametrize("content", [b"", b"not weights", b"PK\x03\x04 half a zip"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_that_holds_no_weights_is_refused(tmp_path, suffix, content):
    (tmp_path / f"w{suffix}").write_bytes(content)
    with pytest.raises(UserError, match=r"b\.weights: .*w\."):
        fetch(tmp_path / "b", weights=str(tmp_path / f"w{suffix}"))


@pytest.mark.parametrize("content", [torch.ones(3), [torch.ones(3)], 5, {}, {1: torch.ones(3)}])
def test_a_file_of_anything_but_names_and_tensors_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(UserError, match=r"holds no state dict .*save_file"):
        fetch(tmp_path / "b", weights=str(tmp_path / "a.pth"))


def test_absent_files_and_unknown_words_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"no such file: .*nowhere\.pth"):
        fetch(tmp_path, weights=str(tmp_path / "nowhere.pth"))
    with pytest.raises(UserError, match="found 'pretrained'; write `hub`, `random`"):
        fetch(tmp_path, weights="pretrained")


def test_position_embeddings_follow_the_input_size(tmp_path):
    file = weights_file(tmp_path / "w.safetensors", "test_vit")
    backbone = fetched(tmp_path / "b", "test_vit", weights=file, input_px=96)
    positions = backbone.network.pos_embed
    assert positions.shape[1] == 1 + 6 * 6
    original = load_file(file)["pos_embed"]
    assert original.shape[1] == 1 + 10 * 10
    assert torch.equal(positions[:, 0], original[:, 0])
    # Every other tensor is the file's own.
    stored = load_file(tmp_path / "b/weights.safetensors")
    assert torch.equal(
        stored["blocks.0.attn.qkv.weight"], load_file(file)["blocks.0.attn.qkv.weight"]
    )


def test_the_fingerprint_covers_everything_that_changes_features(tmp_path):
    file = weights_file(tmp_path / "w.safetensors")
    weights = load_file(file)
    weights["bn1.bias"][0] += 1e-7
    save_file(weights, tmp_path / "x.safetensors")
    asked = {
        "as it is": {},
        "weights": {"weights": str(tmp_path / "x.safetensors")},
        "arguments": {"model_args": {"pad_type": "same"}},
        "side": {"input_px": 96},
        "mean": {"mean": (0.5, 0.5, 0.4)},
        "std": {"std": (0.5, 0.5, 0.4)},
        "filter": {"interpolation": "bilinear"},
        "fit": {"fit": "pad"},
        "crop": {"fit": "crop"},
        "crop share": {"fit": "crop", "crop_share": 0.875},
    }
    found = {
        what: fetched(tmp_path / what, **{"weights": file} | spec).fingerprint
        for what, spec in asked.items()
    }
    assert len(set(found.values())) == len(asked), found
    other_name = fetched(tmp_path / "n", name="other", weights=file, poolings=["grid2"])
    assert other_name.fingerprint == found["as it is"]
    assert all(len(value) == 32 for value in found.values())


def test_random_weights_depend_on_the_seed_alone(tmp_path):
    first = fetched(tmp_path / "a", seed=5)
    torch.manual_seed(99)
    assert fetched(tmp_path / "b", seed=5).fingerprint == first.fingerprint
    assert fetched(tmp_path / "c", seed=6).fingerprint != first.fingerprint


def test_fetching_leaves_the_random_state_alone(tmp_path):
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    fetch(tmp_path, seed=5)
    assert torch.equal(torch.rand(3), expected)


def test_the_randomised_network_shares_everything_but_the_weights(tmp_path):
    backbone = fetched(tmp_path / "a", weights=weights_file(tmp_path / "w.pth"))
    control = backbones.randomised(backbone, seed=1)
    for name in backbones.PREPROCESSING:
        assert control.card[name] == backbone.card[name]
    assert control.fingerprint != backbone.fingerprint
    assert control.fingerprint == backbones.randomised(backbone, seed=1).fingerprint
    ours, theirs = (b.network.state_dict()["conv_stem.weight"] for b in (backbone, control))
    assert ours.shape == theirs.shape and not torch.equal(ours, theirs)
    assert not torch.equal(control(picture(), ["avg"])["avg"], backbone(picture(), ["avg"])["avg"])


def test_weights_changed_after_fetching_are_not_loaded(tmp_path):
    fetch(tmp_path)
    weights = load_file(tmp_path / "weights.safetensors")
    weights["bn1.bias"][0] += 1
    save_file(weights, tmp_path / "weights.safetensors")
    with pytest.raises(UserError, match="do not belong together"):
        backbones.load(tmp_path)
    content = (tmp_path / "weights.safetensors").read_bytes()
    (tmp_path / "weights.safetensors").write_bytes(content[:1000])
    with pytest.raises(UserError, match=r"damaged weights .* delete the folder"):
        backbones.load(tmp_path)


def test_the_card_says_where_the_weights_come_from(tmp_path):
    card = read_yaml(fetch(tmp_path, seed=4) / "card.yaml")
    assert card["source"] == "random weights, seed 4"
    assert card["n_parameters"] > 1000
    assert card["provenance"]["packages"]["timm"] == timm.__version__


@pytest.fixture
def no_network(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def test_without_a_network_the_hub_error_says_what_to_do(tmp_path, no_network):
    with pytest.raises(UserError) as refused:
        fetch(tmp_path, "test_vit", weights="hub")
    for part in ("backbones.b.weights", "test_vit", str(tmp_path / "hub"), "download the file"):
        assert part in str(refused.value)


def test_hub_weights_come_from_the_cache_without_a_network(tmp_path, no_network):
    repository = tmp_path / "hub/models--timm--test_efficientnet.r160_in1k"
    (repository / "snapshots/abc").mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text("abc")
    weights_file(repository / "snapshots/abc/model.safetensors")
    from_hub = fetched(tmp_path / "a", weights="hub", hub_cache=tmp_path / "hub")
    from_file = fetched(tmp_path / "b", weights=weights_file(tmp_path / "w.safetensors"))
    assert from_hub.fingerprint == from_file.fingerprint
    assert from_hub.card["source"] == "hub: timm/test_efficientnet.r160_in1k"
    # Arguments that leave tensors without weights are an error, not random tensors.
    with pytest.raises(UserError, match=r"b\.model_args: the hub's weights do not fit"):
        fetch(tmp_path / "c", weights="hub", hub_cache=tmp_path / "hub",
              model_args={"channel_multiplier": 2.0})  # fmt: skip


def test_an_architecture_without_weights_says_so(tmp_path):
    names = timm.list_models("resnet*")
    name = next(n for n in names if not timm.models.get_pretrained_cfg(n).has_weights)
    with pytest.raises(UserError, match=rf"b\.weights: timm has no weights for {name}; write"):
        fetch(tmp_path, name, weights="hub")


@pytest.mark.data
@pytest.mark.parametrize(
    ("architecture", "file"),
    [
        ("mobilenetv2_035", "mobilenetv2_035_in1k.pth"),
        ("mobilenetv2_100", "mobilenetv2_100_in1k.pth"),
    ],
)
def test_real_weights_load(tmp_path, architecture, file):
    if not (SHARED_WEIGHTS / file).is_file():
        pytest.skip(f"no {file} in {SHARED_WEIGHTS}")
    backbone = fetched(
        tmp_path,
        architecture,
        weights=str(SHARED_WEIGHTS / file),
        model_args={"pad_type": "same", "bn_eps": 1e-3},
        input_px=None,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
    )
    assert (backbone.side, backbone.interpolation) == (224, "bicubic")
    with torch.inference_mode():
        vectors = backbone(picture(224), ["avg", "grid3"])
    assert vectors["avg"].shape == (2, 1280)
    # ReLU6 features of trained weights are neither dead nor saturated.
    assert 0.05 < float(vectors["avg"].mean()) < 3
