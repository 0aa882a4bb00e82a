"""Pretrained networks of timm that turn images into features.

A backbone carries its own preprocessing and a fingerprint of everything that its features
depend on. The same forward pass serves the store of embedded images and Integrated Gradients.
"""

import difflib
import hashlib
import inspect
import pickle
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from timm.models import get_pretrained_cfg, group_parameters, load_state_dict
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from equimood import settings
from equimood.errors import UserError
from equimood.files import digest, provenance, read_yaml, write_yaml, written_whole
from equimood.logs import log

MAP_POOLINGS = ("avg", "grid2", "grid3")
CLASS_TOKEN_POOLINGS = ("avg", "cls", "cls_mean", "cls4", "cls4_mean")
Network = Any  # a model of timm: an nn.Module whose further attributes no type describes
BATCH_COUNT = "num_batches_tracked"
PREPROCESSING = ("side", "mean", "std", "interpolation", "fit", "crop_share")


class Backbone(nn.Module):
    """A frozen network with its preprocessing: pixels to one vector per pooling.

    Attributes
    ----------
    name, architecture : as in the settings.
    fingerprint : 32 hex characters over architecture, arguments, preprocessing and weights.
    side : of the square input, pixels.
    fit, crop_share, interpolation : how a frame becomes that square.
    n_features : length of the vector, per pooling that this network has.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: Network, card: dict[str, Any]):
        super().__init__()
        self.card = card
        self.name: str = card["name"]
        self.architecture: str = card["architecture"]
        self.fingerprint: str = card["fingerprint"]
        self.side: int = card["side"]
        self.fit: Literal["squash", "pad", "crop"] = card["fit"]
        self.crop_share: float = card["crop_share"]
        self.interpolation: Literal["bilinear", "bicubic"] = card["interpolation"]
        self.n_features: dict[str, int] = card["n_features"]
        self.network = network.to(memory_format=torch.channels_last)
        self.register_buffer("mean", torch.tensor(card["mean"]).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(card["std"]).view(3, 1, 1), persistent=False)
        self.requires_grad_(False)
        self.eval()

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.mean.device

    def train(self, mode: bool = True) -> "Backbone":
        """Stay in evaluation mode: batch statistics and stochastic depth would change features."""
        return super().train(False)

    def forward(self, pixels: Tensor, poolings: Sequence[str]) -> dict[str, Tensor]:
        """Compute features, differentiable with respect to ``pixels``.

        Parameters
        ----------
        pixels : (b, 3, side, side) float in 0-1, not normalised.
        poolings : among the keys of ``n_features``.

        Returns
        -------
        Pooling -> (b, n_features[pooling]) float32.
        """
        inputs = ((pixels - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        return _pool(self.network, inputs, poolings)


def fetch(name: str, spec: settings.Backbone, folder: Path, seed: int, hub_cache: Path) -> None:
    """Bring a backbone's weights and preprocessing into ``folder``, checked.

    Writes ``weights.safetensors`` (without classifier, in the precision of the source) and
    ``card.yaml``. ``seed`` matters to random weights alone; ``hub_cache`` is a Hugging Face cache
    that may already hold the hub's weights. Only ``weights: hub`` uses the network.

    Raises
    ------
    UserError : for an unknown architecture, unreachable hub, weights that do not fit, or a pooling
        that the architecture does not have.
    """
    key = f"backbones.{name}"
    _check_architecture(key, spec.architecture)
    model_args = _model_args(spec)
    network = _build_seeded(key, spec.architecture, model_args, seed)
    trained_with = timm.data.resolve_model_data_config(network)
    known_filter = trained_with["interpolation"] in ("bilinear", "bicubic")
    size = model_args.get("img_size", trained_with["input_size"][-1])
    preprocessing: dict[str, Any] = {
        "side": spec.input_px or (size if isinstance(size, int) else size[-1]),
        "mean": [float(value) for value in spec.mean or trained_with["mean"]],
        "std": [float(value) for value in spec.std or trained_with["std"]],
        "interpolation": spec.interpolation
        or (trained_with["interpolation"] if known_filter else "bicubic"),
        "fit": spec.fit,
        "crop_share": spec.crop_share,
    }

    if spec.weights == "random":
        weights, source = network.state_dict(), f"random weights, seed {seed}"
    elif spec.weights == "hub":
        found, source = _from_hub(key, spec.architecture, model_args, hub_cache)
        weights = _fitted(key, spec.architecture, network, found)
    else:
        found, source = _from_file(key, Path(spec.weights))
        weights = _fitted(key, spec.architecture, network, found)
    n_features, macs = _tried(key, spec.architecture, network, preprocessing["side"])
    if unknown := [pooling for pooling in spec.poolings if pooling not in n_features]:
        raise UserError(
            f"{key}.poolings: {spec.architecture} has no {unknown[0]!r}; write some of "
            f"{', '.join(n_features)}"
        )

    with written_whole(folder / "weights.safetensors") as aside:
        save_file({key: tensor.contiguous().clone() for key, tensor in weights.items()}, aside)
    fingerprint = _fingerprint(spec.architecture, model_args, preprocessing, weights)
    write_yaml(folder / "card.yaml", {
        "name": name,
        "architecture": spec.architecture,
        "model_args": model_args,
        **preprocessing,
        "n_features": n_features,
        "n_parameters": sum(parameter.numel() for parameter in network.parameters()),
        "macs": macs,
        "fingerprint": fingerprint,
        "source": source,
        "license": network.pretrained_cfg.get("license") if spec.weights == "hub" else None,
        "provenance": provenance(),
    })  # fmt: skip
    log.info("%s: %s from %s, fingerprint %s", name, spec.architecture, source, fingerprint)


def load(folder: Path, device: torch.device | str = "cpu") -> Backbone:
    """Read a fetched backbone, without network; every tensor must fit and be what was fetched."""
    card = read_yaml(folder / "card.yaml")
    try:
        weights = load_file(folder / "weights.safetensors")
    except SafetensorError as error:
        raise UserError(
            f"{folder}: damaged weights ({error}); delete the folder, so that it is fetched again"
        ) from None
    preprocessing = {key: card[key] for key in PREPROCESSING}
    found = _fingerprint(card["architecture"], card["model_args"], preprocessing, weights)
    if found != card["fingerprint"]:
        raise UserError(
            f"{folder}: weights and card do not belong together (fingerprint {found}, the card "
            f"says {card['fingerprint']}); delete the folder, so that it is fetched again"
        )
    network = _build(f"backbones.{card['name']}", card["architecture"], card["model_args"])
    network.load_state_dict(weights)
    return Backbone(network, card).to(device)


def randomised(backbone: Backbone, seed: int) -> Backbone:
    """Make the same network with freshly initialised weights: the control of explanations.

    After the model randomisation test of Adebayo et al. 2018 (arXiv 1810.03292).
    """
    card = dict(backbone.card, source=f"random weights, seed {seed}")
    key = f"backbones.{backbone.name}"
    network = _build_seeded(key, card["architecture"], card["model_args"], seed)
    card["fingerprint"] = _fingerprint(
        card["architecture"],
        card["model_args"],
        {key: card[key] for key in PREPROCESSING},
        network.state_dict(),
    )
    return Backbone(network, card).to(backbone.device)


def tuned(backbone: Backbone, weights: dict[str, Tensor]) -> Backbone:
    """Make the same network with other weights, fine-tuned from its own: another fingerprint."""
    own = f"backbones.{backbone.name}"
    network = _build(own, backbone.architecture, backbone.card["model_args"])
    network.load_state_dict(weights)
    preprocessing = {key: backbone.card[key] for key in PREPROCESSING}
    card = backbone.card | {
        "source": f"fine-tuned from {backbone.fingerprint}",
        "fingerprint": _fingerprint(
            backbone.architecture, backbone.card["model_args"], preprocessing, network.state_dict()
        ),
    }
    return Backbone(network, card).to(backbone.device)


def blocks(network: Network) -> dict[str, int]:
    """Block of every parameter, counted from the pixels, as timm groups them; empty where it does
    not say."""
    if not hasattr(network, "group_matcher"):
        return {}
    return dict(group_parameters(network, network.group_matcher(coarse=False), reverse=True))


# Poolings


def _has_class_token(network: Network) -> bool:
    """Tell transformers whose class token timm hands out block by block."""
    if getattr(network, "cls_token", None) is None:
        return False
    intermediates = getattr(network, "forward_intermediates", None)
    return intermediates is not None and (
        "return_prefix_tokens" in inspect.signature(intermediates).parameters
    )


def _pool(network: Network, inputs: Tensor, poolings: Sequence[str]) -> dict[str, Tensor]:
    if _has_class_token(network):
        return _pool_blocks(network, inputs, poolings)
    last = network.forward_features(inputs)
    if not isinstance(last, Tensor) or last.ndim not in (3, 4):
        raise TypeError("its last layer is neither a feature map nor a row of tokens")
    if last.ndim == 3:
        others = getattr(network, "num_prefix_tokens", None)
        if others is None:
            others = int(getattr(network, "cls_token", None) is not None)
        pooled = {"avg": _last_norm(network, last[:, others:].float().mean(1))}
    else:
        maps = (last.movedim(-1, 1) if _channels_last(network, last) else last).float()
        pooled = {"avg": maps.mean((2, 3))}
        for side in (2, 3):
            if f"grid{side}" in poolings:
                pooled[f"grid{side}"] = _grid(maps, side)
    return {pooling: pooled[pooling] for pooling in poolings}


def _pool_blocks(network: Network, inputs: Tensor, poolings: Sequence[str]) -> dict[str, Tensor]:
    """Pool tokens as DINOv2's linear evaluation does (Oquab et al. 2023, arXiv 2304.07193).

    Class tokens of the last one or four blocks, each after the final norm, with or without the
    mean patch of the last block.
    """
    blocks = network.forward_intermediates(
        inputs,
        indices=4 if any(pooling.startswith("cls4") for pooling in poolings) else 1,
        return_prefix_tokens=True,
        norm=True,
        output_fmt="NLC",
        intermediates_only=True,
    )
    tokens = [_last_norm(network, prefix[:, 0].float()) for _, prefix in blocks]
    mean = _last_norm(network, blocks[-1][0].float().mean(1))
    parts = {
        "avg": [mean],
        "cls": tokens[-1:],
        "cls_mean": [tokens[-1], mean],
        "cls4": tokens,
        "cls4_mean": [*tokens, mean],
    }
    return {pooling: torch.cat(parts[pooling], dim=1) for pooling in poolings}


def _last_norm(network: Network, vectors: Tensor) -> Tensor:
    """Apply the norm that some transformers keep for after the pooling; (b, d) to (b, d)."""
    norm = getattr(network, "fc_norm", None)
    return vectors if norm is None else norm(vectors)


def _channels_last(network: Network, maps: Tensor) -> bool:
    """Tell maps (b, h, w, c), as Swin gives them, from (b, c, h, w)."""
    if maps.shape[1] == maps.shape[-1]:
        return getattr(network, "output_fmt", "NCHW") == "NHWC"
    return maps.shape[-1] == network.num_features


def _grid(maps: Tensor, side: int) -> Tensor:
    """Adaptive average pooling of (b, c, h, w) to (b, c · side · side).

    Written as slices because the gradient of torch's own is not deterministic on a GPU.
    """
    h, w = maps.shape[2:]
    rows = [slice(i * h // side, -(-(i + 1) * h // side)) for i in range(side)]
    columns = [slice(j * w // side, -(-(j + 1) * w // side)) for j in range(side)]
    cells = [maps[:, :, row, column].mean((2, 3)) for row in rows for column in columns]
    return torch.stack(cells, dim=2).flatten(1)


def _tried(key: str, architecture: str, network: Network, side: int) -> tuple[dict[str, int], int]:
    """Try the network once: the length of each pooling it has, and what one image costs.

    The cost is counted, not timed: multiplications with an addition (MACs, half of what torch
    counts as FLOPs) of convolutions, matrix products and attention.
    """
    inputs = torch.linspace(-1, 1, 3 * side * side).view(1, 3, side, side)
    network.eval()
    try:
        with torch.inference_mode():
            poolings: Sequence[str]
            if _has_class_token(network):
                deep = len(network.blocks) >= 4
                poolings = CLASS_TOKEN_POOLINGS if deep else CLASS_TOKEN_POOLINGS[:3]
            else:
                last = network.forward_features(inputs)
                poolings = MAP_POOLINGS if getattr(last, "ndim", None) == 4 else ("avg",)
            with FlopCounterMode(display=False) as counter:
                pooled = _pool(network, inputs, poolings)
    except Exception as error:  # whatever an architecture raises says that it cannot take this
        raise UserError(
            f"{key}: {architecture} gives no features for an input of {side} px: {_short(error)}. "
            "Write another input_px, or choose another architecture"
        ) from error
    if not all(bool(vector.isfinite().all()) for vector in pooled.values()):
        raise UserError(f"{key}: {architecture} gives no finite features; choose another")
    lengths = {pooling: vector.shape[1] for pooling, vector in pooled.items()}
    return lengths, counter.get_total_flops() // 2


# Architectures and weights


def _check_architecture(key: str, architecture: str) -> None:
    base, _, tag = architecture.partition(".")
    if timm.is_model(base) and (not tag or architecture in timm.list_models(pretrained=True)):
        return
    names = timm.list_models(pretrained=bool(tag))
    close = difflib.get_close_matches(architecture, names, n=3)
    advice = f"did you mean {' or '.join(close)}?" if close else "see timm.list_models()"
    raise UserError(f"{key}.architecture: timm knows no {architecture!r}; {advice}")


def _model_args(spec: settings.Backbone) -> dict[str, Any]:
    """Arguments for timm; a network of fixed input size is built for the size asked for."""
    config = get_pretrained_cfg(spec.architecture)
    if spec.input_px and config is not None and config.fixed_input_size:
        return {"img_size": spec.input_px, **spec.model_args}
    return dict(spec.model_args)


def _build(key: str, architecture: str, model_args: dict[str, Any]) -> Network:
    try:
        return timm.create_model(architecture, pretrained=False, num_classes=0, **model_args)
    except Exception as error:  # timm hands the arguments to code of many authors
        raise UserError(
            f"{key}.model_args: timm cannot build {architecture} with {model_args}: {_short(error)}"
        ) from error


def _build_seeded(key: str, architecture: str, model_args: dict[str, Any], seed: int) -> Network:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return _build(key, architecture, model_args)


def _from_hub(
    key: str, architecture: str, model_args: dict[str, Any], hub_cache: Path
) -> tuple[dict[str, Tensor], str]:
    config = get_pretrained_cfg(architecture)
    if config is None or not config.has_weights:
        raise UserError(
            f"{key}.weights: timm has no weights for {architecture}; write `random` or the path of "
            "a .safetensors or .pth file"
        )
    try:
        # With its classifier, so that timm insists that every tensor fits.
        network: Network = timm.create_model(
            architecture, pretrained=True, cache_dir=str(hub_cache), **model_args
        )
    except RuntimeError as error:
        raise UserError(
            f"{key}.model_args: the hub's weights do not fit {architecture} with {model_args}: "
            f"{_short(error)}"
        ) from error
    except Exception as error:  # the hub's client raises errors of several libraries
        raise UserError(
            f"{key}.weights: the weights of {architecture} are neither in {hub_cache} nor could "
            f"they be fetched: {_short(error)} Fetch them where there is a network (on a cluster, "
            f"the login node), or download the file and write its path as {key}.weights"
        ) from error
    fetched = network.pretrained_cfg
    return network.state_dict(), f"hub: {fetched.get('hf_hub_id') or fetched.get('url')}"


def _from_file(key: str, path: Path) -> tuple[dict[str, Tensor], str]:
    if path.suffix not in (".safetensors", ".pth", ".pt"):
        raise UserError(
            f"{key}.weights: found {str(path)!r}; write `hub`, `random`, or the path of a "
            ".safetensors or .pth file"
        )
    if not path.is_file():
        raise UserError(f"{key}.weights: no such file: {path}; write the path of a weights file")
    try:
        weights = load_state_dict(str(path), weights_only=True)
    except (RuntimeError, pickle.UnpicklingError) as error:
        if "weights_only" in str(error):
            raise UserError(
                f"{key}.weights: {path} holds code beside its weights, which is never run; save "
                "the state dict alone: safetensors.torch.save_file(model.state_dict(), path)"
            ) from None
        raise UserError(f"{key}.weights: {path} is not readable: {_short(error)}") from error
    except (OSError, EOFError, ValueError, SafetensorError) as error:
        raise UserError(f"{key}.weights: {path} is not readable: {_short(error)}") from error
    except (AttributeError, TypeError):  # timm takes what it finds for a state dict
        weights = {}
    if not weights or not all(isinstance(tensor, Tensor) for tensor in weights.values()):
        raise UserError(
            f"{key}.weights: {path} holds no state dict (names and tensors); save one: "
            "safetensors.torch.save_file(model.state_dict(), path)"
        )
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return weights, f"file: {path.name}, sha256 {sha256}"


def _fitted(
    key: str, architecture: str, network: Network, found: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Fit ``found`` to the network, load it, and return its tensors under the network's names.

    Where names or shapes differ, tries timm's own translation for this
    family, which knows the original authors' names and resamples position embeddings.
    """
    weights = _trunk(network, found)
    if problem := _misfit(network, weights):
        translate = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
        if translate is not None:
            try:
                weights = _trunk(network, translate(dict(found), network))
            except Exception as error:  # made for other files: the misfit is what matters
                log.debug("timm could not translate the weights: %s", error)
            problem = _misfit(network, weights)
        if problem:
            raise UserError(
                f"{key}.weights: the weights do not fit {architecture}: {problem}. Check "
                f"architecture and model_args"
            )
    network.load_state_dict(weights, strict=False)
    return {name: weights.get(name, own) for name, own in network.state_dict().items()}


def _trunk(network: Network, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Leave out the classifier, and the counts of batches on which no feature depends."""
    named = network.pretrained_cfg.get("classifier") or ()
    prefixes = tuple(f"{name}." for name in ((named,) if isinstance(named, str) else named))
    own = network.state_dict()
    return {
        name: tensor
        for name, tensor in weights.items()
        if (name in own or not name.startswith(prefixes)) and not name.endswith(BATCH_COUNT)
    }


def _misfit(network: Network, weights: dict[str, Tensor]) -> str | None:
    """Say in words which tensors do not fit, if any."""
    own = network.state_dict()
    missing = [n for n in own if n not in weights and not n.endswith(BATCH_COUNT)]
    unexpected = [n for n in weights if n not in own]
    shapes = [
        f"{n} is {tuple(weights[n].shape)}, not {tuple(own[n].shape)}"
        for n in own
        if n in weights and weights[n].shape != own[n].shape
    ]
    problems = {"missing": missing, "unexpected": unexpected, "of another shape": shapes}
    words = [
        f"{len(names)} {kind} ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})"
        for kind, names in problems.items()
        if names
    ]
    return "; ".join(words) or None


def _fingerprint(
    architecture: str,
    model_args: dict[str, Any],
    preprocessing: dict[str, Any],
    weights: dict[str, Tensor],
) -> str:
    """32 hex characters of sha256 over all that features depend on."""
    total = hashlib.sha256(digest(architecture, model_args, preprocessing).encode())
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        total.update(digest(name, str(tensor.dtype), list(tensor.shape)).encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()[:32]


def _short(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else f"{text[:300]}…"
