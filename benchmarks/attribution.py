"""Time of Integrated Gradients against captum's, image by image, with a gap no larger.

    PYTHONPATH=workflow/scripts python benchmarks/attribution.py speed resnet18
    PYTHONPATH=workflow/scripts python benchmarks/attribution.py speed vit_tiny_patch16_224
    PYTHONPATH=workflow/scripts python benchmarks/attribution.py gaps mobilenetv2_035 \
        --weights mobilenetv2_035_in1k.pth --model-args '{"pad_type": "same", "bn_eps": 0.001}' \
        --mean 0.5 --std 0.5 --images FOLDER

``speed``: the reference is captum's IntegratedGradients called image by image with 50 steps, its
default rule, on the network as timm makes it. Equimood is asked for a gap no larger than the 95th
percentile of the reference's, or than ROUNDING, which float32 alone makes. The floor is as many
forward and backward passes to the input, in chunks of the same shape, and nothing else. The three
take turns; medians are printed. With random weights the network's last layers are curved by
``--gain`` (below). ``gaps``: completeness against evaluations, of uniform Gauss-Legendre and of
refinement, on photographs or drawn noise.
"""

import argparse
import copy
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from captum.attr import IntegratedGradients
from equimood import backbones, devices, images, integrated_gradients, quadrature, settings
from torch import Tensor, nn

N_CLASSES = 4
ROUNDING = 1e-5


class Model(nn.Module):
    """A backbone and a drawn linear head whose logits have a spread of one over the images."""

    def __init__(self, backbone: backbones.Backbone, pooling: str, pixels: Tensor):
        super().__init__()
        self.backbone, self.pooling = backbone, pooling
        source = torch.Generator().manual_seed(0)
        with torch.no_grad():
            X = torch.cat([backbone(p, [pooling])[pooling] for p in pixels.split(8)])
            drawn = torch.randn(X.shape[1], N_CLASSES, generator=source).to(X)
            logits = (X - X.mean(0)) @ drawn
            self.head = drawn / logits.std()

    def forward(self, pixels: Tensor) -> Tensor:
        """Map pixels (b, 3, side, side) to logits (b, N_CLASSES)."""
        return self.backbone(pixels, [self.pooling])[self.pooling] @ self.head


def main() -> None:
    """Run one of the measurements."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["speed", "gaps"])
    parser.add_argument("architecture")
    parser.add_argument("--weights", default="random")
    parser.add_argument("--model-args", type=json.loads, default={})
    parser.add_argument("--mean", type=float)
    parser.add_argument("--std", type=float)
    parser.add_argument("--images", type=Path, help="folder of photographs; else drawn")
    parser.add_argument("--n", type=int, default=32, help="images, explained together")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--n-steps", type=int, default=16)
    parser.add_argument("--max-steps", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--gain", type=float, default=1.0, help="factor of random weights")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    device = devices.choose()
    with tempfile.TemporaryDirectory() as folder:
        backbone = fetch(Path(folder), asked).to(device)
    pixels = pictures(backbone, asked).to(device)
    pooling = "cls" if "cls" in backbone.n_features else "avg"
    model = Model(backbone, pooling, pixels).eval().requires_grad_(False)
    with torch.no_grad():
        target = torch.cat([model(each) for each in pixels.split(asked.batch)]).argmax(1)
    print(f"{asked.architecture} ({asked.weights.rsplit('/')[-1]}), {backbone.side} px, "
          f"{asked.n} images, {devices.name(device)}, {asked.threads} threads")  # fmt: skip
    {"speed": speed, "gaps": gaps}[asked.what](model, pixels, target, asked)


def fetch(folder: Path, asked: argparse.Namespace) -> backbones.Backbone:
    """Make the backbone at 224 px; weight matrices of a drawn one are multiplied by ``gain``."""
    spec = settings.Backbone(
        architecture=asked.architecture,
        weights=asked.weights,
        model_args=asked.model_args,
        mean=None if asked.mean is None else (asked.mean,) * 3,
        std=None if asked.std is None else (asked.std,) * 3,
        input_px=224,
    )
    backbones.fetch("measured", spec, folder / "backbone", 0, folder)
    backbone = backbones.load(folder / "backbone")
    if asked.gain != 1:
        with torch.no_grad():
            for weights in backbone.network.parameters():
                if weights.ndim == 2:
                    weights.mul_(asked.gain)
    return backbone


def pictures(backbone: backbones.Backbone, asked: argparse.Namespace) -> Tensor:
    """Read photographs (n, 3, side, side), or draw images with the spectrum of photographs."""
    side = backbone.side
    if asked.images:
        found = []
        for path in sorted(asked.images.iterdir())[: 4 * asked.n : 4]:
            picture = images.read(path)
            box = (0, 0, picture.shape[2], picture.shape[1])
            found.append(images.fit(picture, box, side, "squash", backbone.interpolation, 1.0)[0])
        return torch.stack(found).float() / 255
    rng = np.random.default_rng(0)
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None])
    frequency[0, 0] = np.inf
    noise = rng.normal(size=(asked.n, 3, side, side // 2 + 1))
    phase = np.exp(2j * np.pi * rng.random(noise.shape))
    drawn = np.fft.irfft2(noise * phase / frequency, s=(side, side))
    drawn = 0.5 + 0.2 * drawn / drawn.std((2, 3), keepdims=True)
    return torch.from_numpy(drawn.clip(0, 1)).float()


def speed(model: Model, pixels: Tensor, target: Tensor, asked: argparse.Namespace) -> None:
    """Print time per image of Equimood, captum image by image, and the floor."""
    explain = settings.Explain(batch_size=asked.batch)
    starts = integrated_gradients.blur(pixels, explain.blur * pixels.shape[-1])
    plain = Plain(model)
    with torch.no_grad():
        change = (plain(pixels) - plain(starts)).gather(1, target[:, None])[:, 0]

    def captum() -> Tensor:
        own = [
            IntegratedGradients(plain).attribute(
                pixels[i : i + 1], starts[i : i + 1], target=int(target[i]), n_steps=50
            )
            for i in range(asked.n)
        ]
        return torch.cat(own)

    missed = (captum().double().sum((1, 2, 3)) - change).abs() / change.abs().clamp(
        min=quadrature.SMALLEST_CHANGE
    )
    limit = float(np.percentile(missed.cpu(), 95))
    chosen = settings.Explain(
        n_steps=asked.n_steps, max_steps=asked.max_steps, batch_size=asked.batch,
        tolerance=min(1.0, max(limit, ROUNDING)),
    )  # fmt: skip

    def ours() -> integrated_gradients.Integrated:
        return integrated_gradients.integrate(model, [pixels], target, chosen)

    found = ours()
    n_passes = -(-int(found.steps.sum()) // asked.batch)
    rows = pixels[torch.arange(asked.batch, device=pixels.device) % asked.n]
    own = target[torch.arange(asked.batch, device=pixels.device) % asked.n]

    def bare() -> None:
        for _ in range(n_passes):
            point = rows.clone().requires_grad_()
            with devices.autocast(pixels.device):
                logits = model(point)
            torch.autograd.grad(logits.gather(1, own[:, None]).sum(), point)

    seconds: dict[str, list[tuple[float, float]]] = {"Equimood": [], "captum": [], "floor": []}
    for _ in range(asked.repeats):
        for name, run in (("Equimood", ours), ("captum", captum), ("floor", bare)):
            began = time.perf_counter(), time.process_time()
            run()
            if pixels.is_cuda:
                torch.cuda.synchronize()
            seconds[name].append((time.perf_counter() - began[0], time.process_time() - began[1]))
    took = {name: np.median(each, axis=0) / asked.n for name, each in seconds.items()}
    gap = found.gap.numpy()
    print(f"gap, median and p95: Equimood {np.median(gap):.2g}, {np.percentile(gap, 95):.2g}; "
          f"captum, 50 steps {np.median(missed.cpu()):.2g}, {limit:.2g}; the change's median is "
          f"{change.abs().median():.2g} logits")  # fmt: skip
    print(f"evaluations an image: Equimood {found.steps.double().mean():.1f} (first {asked.n_steps}"
          f", at most {int(found.steps.max())}), captum 50")  # fmt: skip
    for name, (wall, cpu) in took.items():
        print(f"{name:9} {wall:7.3f} s an image, {cpu:7.3f} s of CPU")
    for i, kind in enumerate(("time", "CPU time")):
        own, reference, floor = (took[name][i] for name in ("Equimood", "captum", "floor"))
        print(f"{kind}: captum / Equimood {reference / own:.2f}; share of the floor "
              f"{floor / own:.2f}")  # fmt: skip


class Plain(nn.Module):
    """The same model as anybody has it from timm: not frozen, in the usual memory format."""

    def __init__(self, model: Model):
        super().__init__()
        network = copy.deepcopy(model.backbone.network)
        self.network = network.to(memory_format=torch.contiguous_format).requires_grad_(True)
        self.mean, self.std, self.head = model.backbone.mean, model.backbone.std, model.head

    def forward(self, pixels: Tensor) -> Tensor:
        """Map pixels (b, 3, side, side) to logits (b, N_CLASSES)."""
        last = self.network.forward_features((pixels - self.mean) / self.std)
        pooled = last.mean((2, 3)) if last.ndim == 4 else last[:, 0]
        return pooled @ self.head


def gaps(model: Model, pixels: Tensor, target: Tensor, asked: argparse.Namespace) -> None:
    """Print completeness gaps against evaluations."""
    tries = {
        f"Gauss-Legendre, {n} points": {"method": "captum", "n_steps": n, "max_steps": 1024}
        for n in (16, 32, 64, 128)
    }
    tries |= {
        f"refined, {n} to {most}": {"n_steps": n, "max_steps": most}
        for n in (8, 16) for most in (64, 128, 256)
    }  # fmt: skip
    for name, options in tries.items():
        explain = settings.Explain(batch_size=asked.batch, **options)
        found = integrated_gradients.integrate(model, [pixels], target, explain)
        gap, steps = found.gap.numpy(), found.steps.double().numpy()
        print(f"{name:26} gap median {np.median(gap):.3f}, p95 {np.percentile(gap, 95):.3f}, over "
              f"5 % {np.mean(gap > 0.05):.2f}; evaluations mean {steps.mean():.1f}, p95 "
              f"{np.percentile(steps, 95):.0f}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
