"""A calibrated model that maps the pixels of one or several views to emotion probabilities."""

import copy
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from equimood import backbones
from equimood.backbones import Backbone
from equimood.errors import UserError
from equimood.files import digest, provenance, read_yaml, write_yaml, written_whole
from equimood.heads import Head, HeadConfig, Structure, structure_from
from equimood.novelty import Novelty

NOVELTY = "novelty."  # begins the names of its tensors in weights.safetensors

TUNED = "backbone."
"""How the names of a fine-tuned backbone's weights begin, beside those of the head."""


NETWORK = "backbone.network."
"""How the names of a backbone's weights begin in the state of a model."""


class EmotionModel(nn.Module):
    """Backbone, pooling, views side by side, head, temperature; frozen.

    Attributes
    ----------
    classes : names of the outputs, in order.
    views : names of the inputs, in order.
    pooling : how the backbone's last layer becomes a vector.
    temperature : divides the logits (Guo et al. 2017, arXiv 1706.04599).
    threshold : confidence from which on it answers; None where it never does.
    novelty : maps features (b, d) to novelty (b,), above 1 of images unlike the training's.
    """

    temperature: Tensor

    def __init__(
        self,
        backbone: Backbone,
        head: Head,
        structure: Structure,
        classes: Sequence[str],
        temperature: float,
        threshold: float | None,
        novelty: Novelty,
    ):
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.structure = structure
        self.views = list(structure.views)
        self.pooling = structure.pooling
        self.classes = list(classes)
        self.register_buffer("temperature", torch.tensor(temperature, dtype=torch.float32))
        self.threshold = threshold
        self.novelty = novelty
        self.requires_grad_(False)
        self.eval()

    def forward(self, *views: Tensor) -> Tensor:
        """Map pixels, per view (b, 3, side, side) in 0-1, to calibrated logits (b, C), mean 0."""
        return self.logits(self.features(*views))

    def features(self, *views: Tensor) -> Tensor:
        """Map pixels, per view (b, 3, side, side) in 0-1, to features (b, d)."""
        vectors = [self.backbone(pixels, [self.pooling])[self.pooling] for pixels in views]
        return torch.cat(vectors, dim=1)

    def logits(self, X: Tensor) -> Tensor:
        """Map features (b, d), the views side by side, to calibrated logits (b, C), mean 0.

        What is common to all classes is taken off: it changes no probability, and would be
        explained as if it spoke for the answer.
        """
        logits = self.head(X) / self.temperature
        return logits - logits.mean(dim=1, keepdim=True)


def save(
    folder: Path,
    head: Head,
    structure: Structure,
    config: HeadConfig,
    classes: Sequence[str],
    temperature: float,
    threshold: float | None,
    novelty: Novelty,
    backbone_fingerprint: str,
    trained: dict[str, Any],
    tuned: Backbone | None = None,
) -> None:
    """Write ``weights.safetensors`` and ``card.yaml``; the backbone by its fingerprint.

    ``trained`` says from what and how: it stands in the card as given. ``tuned`` is the backbone
    fine-tuned from the one named: its weights are written, too.
    """
    weights = dict(head.state_dict())
    if tuned:
        weights |= {f"{TUNED}{name}": value for name, value in tuned.network.state_dict().items()}
    with written_whole(folder / "weights.safetensors") as aside:
        state = weights | novelty.state_dict(prefix=NOVELTY)
        save_file({name: value.cpu().contiguous() for name, value in state.items()}, aside)
    write_yaml(folder / "card.yaml", {
        "classes": list(classes),
        "temperature": temperature,
        "threshold": threshold,
        "structure": _listed(asdict(structure)),
        "head": asdict(config),
        "backbone_fingerprint": backbone_fingerprint,
        **({"tuned_fingerprint": tuned.fingerprint} if tuned else {}),
        **trained,
        "provenance": provenance(),
    })  # fmt: skip


def load(folder: Path, backbone: Backbone) -> EmotionModel:
    """Read a saved model on its backbone's device; refuse any backbone but the one it had."""
    card = read_yaml(folder / "card.yaml")
    if backbone.fingerprint != card["backbone_fingerprint"]:
        raise UserError(
            f"{folder}: trained on features of another backbone (fingerprint "
            f"{card['backbone_fingerprint']}) than {backbone.name} ({backbone.fingerprint}); "
            "run the target train again"
        )
    weights = load_file(folder / "weights.safetensors")
    new = {n.removeprefix(NOVELTY): weights.pop(n) for n in list(weights) if n.startswith(NOVELTY)}
    own = {n.removeprefix(TUNED): weights.pop(n) for n in list(weights) if n.startswith(TUNED)}
    if own:
        backbone = backbones.tuned(backbone, own)
    if own and backbone.fingerprint != card["tuned_fingerprint"]:
        raise UserError(
            f"{folder}: weights and card do not belong together (fine-tuned backbone "
            f"{backbone.fingerprint}, the card says {card['tuned_fingerprint']}); delete the "
            "folder and run the target train again"
        )
    model = EmotionModel(
        backbone,
        Head.from_state(weights),
        structure_from(card["structure"]),
        card["classes"],
        card["temperature"],
        card["threshold"],
        Novelty(new),
    )
    return model.to(backbone.device)


def load_with(folder: Path, backbone_cards: Iterable[str], device: torch.device) -> EmotionModel:
    """Read a saved model, its backbone found by name among the cards of fetched ones."""
    name = read_yaml(folder / "card.yaml")["structure"]["backbone"]
    for card in map(Path, backbone_cards):
        if read_yaml(card)["name"] == name:
            return load(folder, backbones.load(card.parent, device))
    raise UserError(f"{folder}: trained with backbone {name!r}, which is not in the settings now")


def randomised(model: Any, seed: int) -> Any:
    """Return the same network with random weights, backbone and head: the control of explanations
    (Adebayo et al. 2018, arXiv 1810.03292).

    The head's weights are drawn anew with the scale of the trained ones.
    """
    twin = copy.deepcopy(model)
    twin.backbone = backbones.randomised(model.backbone, seed)
    source = torch.Generator().manual_seed(seed)
    inside = {id(parameter) for parameter in twin.backbone.parameters()}
    with torch.no_grad():
        for parameter in twin.parameters():
            if id(parameter) not in inside:
                drawn = torch.randn(parameter.shape, generator=source)
                parameter.copy_(drawn * parameter.square().mean().sqrt().cpu())
    return twin


def cascade(model: Any, seed: int, n_levels: int) -> Iterator[tuple[float, Any]]:
    """Yield a model with more and more of it randomised, from the head down to the pixels.

    After the cascading randomisation of Adebayo et al. 2018 (arXiv 1810.03292).

    Parameters
    ----------
    n_levels : how many at most, evenly over the backbone's blocks (``backbones.blocks``).

    Yields
    ------
    The share of the blocks that is randomised, 0 (the head alone) to 1 (all), and one and the same
    model, which the next level changes further.
    """
    mixed, twin = copy.deepcopy(model), randomised(model, seed)
    block_of = backbones.blocks(model.backbone.network)
    n_blocks = max(block_of.values(), default=0) + 1
    of_module = {name.rpartition(".")[0]: block for name, block in block_of.items()}
    own, drawn = mixed.state_dict(), twin.state_dict()
    left = {  # the head is above all blocks; a buffer belongs to the parameters of its module
        name: block_of.get(inner, of_module.get(inner.rpartition(".")[0], 0))
        if (inner := name.removeprefix(NETWORK)) != name
        else n_blocks
        for name in own
    }
    for n_randomised in np.unique(np.linspace(0, n_blocks, n_levels).round().astype(int)):
        for name in [name for name, block in left.items() if block >= n_blocks - n_randomised]:
            own[name].copy_(drawn[name])
            del left[name]
        yield float(n_randomised / n_blocks), mixed


def fingerprint(model: Any) -> str:
    """Digest of what a model computes: its backbone, head and views (32 hexadecimal characters)."""
    head = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        if not name.startswith("backbone."):
            head.update(f"{name} {value.dtype} {tuple(value.shape)} ".encode())
            head.update(value.detach().cpu().contiguous().numpy().tobytes())
    card = [model.backbone.fingerprint, list(model.views), model.pooling, list(model.classes)]
    return digest(card, head.hexdigest())


def _listed(content: dict[str, Any]) -> dict[str, Any]:
    """Tuples as lists: YAML without Python's own tags."""
    return {k: list(v) if isinstance(v, tuple) else v for k, v in content.items()}
