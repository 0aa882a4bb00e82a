"""What attribution asks of an EmotionModel, on a small real backbone of timm."""

import torch
from torch import nn


class TinyModel(nn.Module):
    """Random and frozen; ``classes`` are a subclass's."""

    classes: list[str]
    pooling = "avg"

    def __init__(self, backbone, seed, views=("whole",)):
        super().__init__()
        torch.manual_seed(seed)
        self.backbone, self.views = backbone, tuple(views)
        self.head = nn.Linear(backbone.n_features["avg"] * len(views), len(self.classes))
        nn.init.normal_(self.head.weight)
        self.eval().requires_grad_(False)

    def logits(self, X):
        return self.head(X)

    def forward(self, *views):
        return self.logits(torch.cat([self.backbone(v, ["avg"])["avg"] for v in views], 1))
