"""The study's settings: one pydantic model per section of ``config.yaml``, unknown keys refused.

The descriptions below are the comments of ``config.yaml``, the schema for editors and the
reference in ``docs/configuration.md``: ``make reference`` writes all three from these models.
"""

import difflib
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from pydantic import model_validator as check

from equimood.errors import UserError
from equimood.files import digest

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$", max_length=60)]
Label = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=60)]
Reason = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=600)]
Share = Annotated[float, Field(ge=0, le=1)]
Spread = Annotated[float, Field(gt=0, le=1)]
Pooling = Literal["avg", "grid2", "grid3", "cls", "cls_mean", "cls4", "cls4_mean"]
Diverging = Literal[
    "PuOr", "RdBu", "BrBG", "PiYG", "PRGn", "RdGy", "RdYlBu", "RdYlGn", "Spectral", "coolwarm",
    "bwr", "seismic", "PuOr_r", "RdBu_r", "BrBG_r", "PiYG_r", "PRGn_r", "RdGy_r", "RdYlBu_r",
    "RdYlGn_r", "Spectral_r", "coolwarm_r", "bwr_r", "seismic_r",
]  # fmt: skip
Metric = Literal["f1_macro", "balanced_accuracy", "accuracy", "matthews_corrcoef"]

DRAWN_SHARES = {"neutral": 0.37, "alarmed": 0.21, "annoyed": 0.21, "relaxed": 0.21}
"""The emotions that the demo can draw, each with its share of the pictures."""

NOT_SURE = "not sure"
"""What a model answers whose confidence is too low."""

OWN_MODEL_ARGS = {"pretrained", "checkpoint_path", "num_classes", "features_only", "in_chans"}
"""Arguments of timm.create_model that Equimood gives itself; a checkpoint would run its code."""

COLUMNS = ("image", "label", "horse", "session", "video", "rater", "confidence", "x0", "y0", "x1",
           "y1", "time_s", "fold")  # fmt: skip
"""Columns of the annotations that Equimood knows."""

_NAME = "write a name of letters, digits, _ and -, with a letter or digit first"
_TEXT = (
    "write text; put it in quotes, or YAML reads no, yes, off and on as false and true, and digits "
    "as a number"
)
_SECTION = "write its keys below it, each on a line of its own, indented"
REMEDIES = {
    "bool_parsing": "write true or false",
    "bool_type": "write true or false",
    "dict_type": _SECTION,
    "finite_number": "write a number",
    "float_parsing": "write a number, with a point",
    "float_type": "write a number, with a point",
    "greater_than": "write more than {gt}",
    "greater_than_equal": "write at least {ge}",
    "int_from_float": "write a whole number",
    "int_parsing": "write a whole number",
    "int_type": "write a whole number",
    "less_than": "write less than {lt}",
    "less_than_equal": "write at most {le}",
    "list_type": "write a list: [a, b]",
    "literal_error": "write {expected}",
    "model_type": _SECTION,
    "string_pattern_mismatch": _NAME,
    "string_too_long": "write at most {max_length} characters",
    "string_too_short": "write a word",
    "string_type": _TEXT,
    "too_long": "write at most {max_length}",
    "too_short": "write at least {min_length}",
    "tuple_type": "write a list: [a, b]",
}
"""What to write instead, by pydantic's type of error; filled in from its context."""


class Section(BaseModel):
    """A part of the settings: complete, frozen, and closed to keys it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Data(Section):
    """The annotated photographs."""

    annotations: str | None = None
    """Table of annotations (CSV, TSV, Parquet or XLSX): columns image, label, horse; optional
    session, video, rater, confidence, x0, y0, x1, y1, time_s, fold and any other. Leave null in
    the demo study, which draws its own."""
    images: str | None = None
    """Folder in which the table's image paths start. Leave null in the demo study."""
    regions: str | None = None
    """Optional table of ethogram regions: columns image, horse, region, kind (box, points, mask),
    x0, y0, x1, y1 or points or mask, visible."""
    codes: str | None = None
    """Optional table of action-unit codes (EquiFACS): columns image, horse, then one per code,
    empty or NA where not visible. A model on them is one of the baselines."""
    columns: dict[str, str] = {}
    """Your table's column names where they differ from Equimood's: `equimood_name: your_name`."""
    classes: list[Label] = Field(min_length=2)
    """The emotions, in the order of every table and figure. The names are yours."""
    ordered: bool = False
    """Whether the classes are the steps of a scale, from low to high. The agreement of several
    raters is then also measured by intraclass correlations of the steps."""

    @check(mode="after")
    def _consistent(self) -> Self:
        if len(set(self.classes)) < len(self.classes):
            raise ValueError("a class is named twice")
        if NOT_SURE in self.classes:
            raise ValueError(
                f"a class is called {NOT_SURE!r}, which is what a model answers that is not; write "
                "another name, or leave these photographs out"
            )
        for name in self.columns:
            if name not in COLUMNS:
                close = difflib.get_close_matches(name, COLUMNS, n=1) or COLUMNS
                raise ValueError(
                    f"columns: found {name!r} before the colon; write {' or '.join(close)} there, "
                    "and your own name after it"
                )
        return self


class Demo(Section):
    """The demo study's drawings: horses whose emotion has a known cause."""

    horses: int = Field(24, ge=4)
    """Number of horses, each with its own coat, markings and build."""
    sessions: int = Field(2, ge=1)
    """Sessions per horse: light, background and tack change between them."""
    images_per_session: int = Field(10, ge=1)
    """Pictures per session."""
    shortcut: Literal["bucket", "halter"] | None = None
    """A thing that alone tells one class: a leak that audit and explanation must find."""
    shortcut_class: Label | None = None
    """The class the shortcut goes with; its horses are drawn at rest."""

    @check(mode="after")
    def _consistent(self) -> Self:
        if (self.shortcut is None) != (self.shortcut_class is None):
            raise ValueError("shortcut and shortcut_class are set together or not at all")
        return self


class View(Section):
    """One way to frame the horse."""

    box: Literal["picture", "annotations", "regions", "horse"] = "picture"
    """Frame: the whole picture, the annotation's box (x0, y0, x1, y1), or the box around the
    regions named below. `horse`, for `keep: outside`: the regions head, neck, trunk, legs and tail
    (of a horse that has none of them, all its regions) and, where they do not reach over the
    annotation's box, that box too, without margin."""
    regions: list[str] = []
    """Regions of the region table whose common box is the frame (with `box: regions`)."""
    margin: float = Field(0.0, ge=0, le=2)
    """Room added on every side, as a share of the box's longer side."""
    keep: Literal["inside", "outside"] = "inside"
    """`inside`: the frame is cut out. `outside`: the whole picture, the box (or the box of each
    region), widened to eighths of the picture's sides, filled with the mean colour of the rest. For
    controls alone, never searched."""

    @check(mode="after")
    def _consistent(self) -> Self:
        if self.keep == "outside" and self.box == "picture":
            raise ValueError("`keep: outside` leaves nothing of `box: picture`; write another box")
        if self.keep == "inside" and self.box == "horse":
            raise ValueError("`box: horse` is for `keep: outside`; write annotations or regions")
        if (self.box == "regions") != bool(self.regions):
            raise ValueError("`regions` names the frame of `box: regions`, and of no other box")
        return self


BACKGROUND, RANDOM = "background", "random"  # names of the control's view and backbone
HIDDEN_HORSE = View(box="horse", keep="outside", margin=0.15)


class Ingest(Section):
    """Which files make the catalogue."""

    shards: int = Field(4, ge=1, le=100)
    """Parts in which images are embedded and explained: about one per 50,000 images."""
    min_side_px: int = Field(32, ge=1)
    """Pictures with a shorter side are refused."""
    max_pixels: int = Field(120_000_000, ge=1)
    """Pictures with more pixels are refused: they are more likely a decompression bomb."""
    min_contrast: float = Field(2.0, ge=0)
    """Pictures whose grey levels (0-255) have a smaller standard deviation are refused as black
    or blank."""
    min_agreement: Share = 0.5
    """With several raters, images on which a smaller share agrees with the majority are refused."""
    max_refused: Share = 0.05
    """Share of refused rows above which the study stops."""
    near_duplicate_bits: int = Field(4, ge=0, le=10)
    """Pictures whose 64-bit perceptual hashes differ in at most this many bits are reported as
    near-duplicates."""


class Split(Section):
    """Who is trained on and who is tested: always whole horses."""

    outer: Literal["holdout", "kfold", "leave_one_horse_out", "column"] = "kfold"
    """Outer folds: one hold-out, k folds, one fold per horse, or the table's column `fold`."""
    n_splits: int = Field(4, ge=2, le=50)
    """Number of outer folds with `kfold`."""
    test_share: float = Field(0.25, gt=0, le=0.5)
    """Share of horses held out with `holdout`."""
    inner_splits: int = Field(3, ge=2, le=20)
    """Inner folds, by horse, on which the search compares configurations."""


class Check(Section):
    """One check of the audit."""

    action: Literal["refuse", "warn", "accept"] = "warn"
    """What follows where more is found than the threshold: the study stops; the report warns; or
    you have looked at it and go on, with a written reason."""
    threshold: float = Field(0, ge=0)
    """How much may be found."""
    reason: Reason | None = None
    """With `accept`: why, in your words; the report prints them."""

    @check(mode="after")
    def _consistent(self) -> Self:
        if (self.action == "accept") != (self.reason is not None):
            raise ValueError(
                "`action: accept` needs a `reason`, in your words, and no other action has one"
            )
        return self


class Audit(Section):
    """What could make the study's figures come out too high, looked for before any search.

    Each check has an `action`, which follows where more is found than its `threshold`: `refuse`
    stops the study, `warn` says so in the report, and `accept` goes on, with your own words why in
    `reason`.
    """

    shared_session: Check = Check(action="refuse", threshold=0)
    """Sessions with horses on both sides of an outer fold: how many are allowed."""
    shared_video: Check = Check(action="refuse", threshold=0)
    """Videos with horses on both sides of an outer fold: how many are allowed."""
    near_duplicates: Check = Check(action="refuse", threshold=0)
    """Nearly equal pictures of two horses on both sides of an outer fold: how many pairs are
    allowed."""
    contradictory: Check = Check(action="warn", threshold=0)
    """Equal files with two labels or two horses, which ingest leaves out: how many files."""
    class_horse: Check = Check(action="warn", threshold=0.5)
    """Largest share of a class's photographs that may come from one horse."""
    class_session: Check = Check(action="warn", threshold=0.5)
    """Largest share of a class's photographs that may come from one session."""
    class_covariate: Check = Check(action="refuse", threshold=0.99)
    """Largest share of a class's photographs that may have one value of a column (camera, site …)
    which at most half of the other classes' photographs have."""
    few_horses: Check = Check(action="warn", threshold=50)
    """With `split.outer: holdout`: the number of horses below which one hold-out says little."""
    metadata: Check = Check(action="warn", threshold=0)
    """How far above chance balanced accuracy may certainly be (the lower end of its interval) when
    labels are told from the table's other columns and the session's number."""
    picture_facts: Check = Check(action="warn", threshold=0)
    """The same, from a picture's size, proportions and the mean and spread of its colours."""
    background: Check = Check(action="warn", threshold=0)
    """The same, from the picture with the horse hidden."""
    context: Check = Check(action="warn", threshold=0.3)
    """How much oftener tack, a human or an object may be seen in a class than in the others."""

    @check(mode="before")
    @classmethod
    def _complete(cls, given: Any) -> Any:
        """Keep a check's own threshold and action where only the other is written."""
        if not isinstance(given, dict):
            return given
        return {
            name: _over_default(cls.model_fields[name].default, value)
            if name in cls.model_fields and isinstance(value, dict)
            else value
            for name, value in given.items()
        }


def _over_default(default: Check, given: dict[str, Any]) -> dict[str, Any]:
    return {"action": default.action, "threshold": default.threshold} | given


class Controls(Section):
    """Simpler predictors that the model must beat, as far as the data allow them.

    The commonest class and logistic regression on the model's features are always there.
    """

    background: bool = True
    """The picture with the horse hidden: needs boxes or regions. A view named `background` with
    `keep: outside` says what is hidden; without one, it is `box: horse` with a margin of 0.15, for
    ears."""
    random_weights: bool = True
    """The first searched backbone with random weights."""
    metadata: bool = True
    """The table's other columns and the session's number."""
    codes: bool = True
    """The codes of data.codes."""


class Backbone(Section):
    """A pretrained network of timm that turns an image into features."""

    architecture: str
    """timm's name of the architecture, such as `vit_small_patch14_dinov2.lvd142m`."""
    weights: str = "hub"
    """`hub` (timm's own, fetched once), `random`, or a file: .safetensors, or .pth read without
    running code."""
    model_args: dict[str, Any] = {}
    """Arguments for timm.create_model, such as `pad_type`, `bn_eps`, `img_size`."""
    input_px: int | None = Field(None, ge=16, le=2048)
    """Side of the square input in pixels; null: what the weights were trained with."""
    mean: tuple[Share, Share, Share] | None = None
    """Normalisation mean per channel, of pixels in 0-1; null: what the weights were trained
    with."""
    std: tuple[Spread, Spread, Spread] | None = None
    """Normalisation standard deviation per channel, of pixels in 0-1; null: what the weights were
    trained with."""
    interpolation: Literal["bilinear", "bicubic"] | None = None
    """Resize filter (always antialiased); null: what the weights were trained with."""
    fit: Literal["squash", "pad", "crop"] = "squash"
    """How a frame becomes a square: squash keeps the ears; pad keeps the proportions; crop takes
    the centre."""
    crop_share: float = Field(1.0, gt=0, le=1)
    """With `fit: crop`, side of the central square as a share of the shorter side."""
    poolings: list[Pooling] = Field(["avg"], min_length=1)
    """How the last layer becomes one vector. Feature maps: avg, grid2, grid3. Transformers: cls,
    cls_mean, cls4, cls4_mean (class token of the last or the last four blocks, with or without
    the mean patch), avg."""

    @check(mode="after")
    def _consistent(self) -> Self:
        for name in sorted(OWN_MODEL_ARGS & set(self.model_args)):
            raise ValueError(
                f"model_args: {name} is not yours to give; leave it out, and say in `weights` "
                "where the weights come from"
            )
        return self

    @property
    def weights_file(self) -> str | None:
        """The user's file of weights, if they come from one."""
        return None if self.weights in ("hub", "random") else self.weights


class Features(Section):
    """The store of embedded images."""

    dtype: Literal["float16", "float32"] = "float16"
    """Precision of stored features."""
    batch_size: int = Field(32, ge=1)
    """Images in one forward pass; changes speed and memory, not results."""


class Search(Section):
    """Which configurations are compared, inside each outer fold."""

    metric: Metric = "f1_macro"
    """Score, averaged over inner folds, that the search makes large."""
    n_trials: int = Field(24, ge=1)
    """Structures tried: all where they are no more than this, else a seeded Optuna search."""
    views: list[Annotated[list[Name], Field(min_length=1)]] = Field([["whole"]], min_length=1)
    """Views compared; a list of several is their concatenation: face and posture together."""
    backbones: list[Name] = []
    """Backbones compared; empty: all."""
    heads: list[Literal["linear", "mlp"]] = Field(["linear", "mlp"], min_length=1)
    """Classifiers on the features."""
    hidden_units: list[Annotated[int, Field(ge=2, le=4096)]] = Field([64], min_length=1)
    """Hidden units of the MLP."""
    weight_by: list[list[Literal["class", "horse", "session"]]] = Field([["class"]], min_length=1)
    """What counts the same in the loss, however many images it has; several multiply."""
    n_heads: int = Field(48, ge=1)
    """Heads trained together in a trial: all combinations of the five settings below, or a seeded
    sample of this many."""
    learning_rate: list[Annotated[float, Field(gt=0)]] = Field(
        [0.01, 0.001, 0.003, 0.03], min_length=1
    )
    """Learning rates (AdamW, cosine decay)."""
    weight_decay: list[Annotated[float, Field(ge=0)]] = Field([0.01, 0.1, 1.0], min_length=1)
    """Decoupled weight decays."""
    dropout: list[Annotated[float, Field(ge=0, lt=1)]] = Field([0.0, 0.5], min_length=1)
    """Dropout rates: on the features of a linear head, on the hidden units of an MLP."""
    label_smoothing: list[Annotated[float, Field(ge=0, lt=1)]] = Field([0.0, 0.1], min_length=1)
    """Label smoothings."""
    seeds: int = Field(1, ge=1, le=1000)
    """Seeds per combination."""
    epochs: int = Field(30, ge=1)
    """Passes over the training images."""
    batch_size: int = Field(128, ge=1)
    """Images per step."""

    @property
    def n_heads_tried(self) -> int:
        """Heads of a trial: each combination of settings comes with all its seeds."""
        settings = (self.learning_rate, self.weight_decay, self.dropout, self.label_smoothing)
        n_combinations = math.prod(map(len, settings))
        return self.seeds * min(n_combinations, max(1, self.n_heads // self.seeds))


class Transfer(Section):
    """Fine-tuning: the chosen backbone learns, too, and is compared with its frozen features."""

    enabled: bool = False
    """Compare last blocks, all blocks and training from scratch with frozen features, and use what
    scores best on the inner folds. Takes many times as long as the search: docs/transfer.md."""
    n_trials: int = Field(8, ge=1)
    """Settings tried of each of the three ways: all combinations of the five below, or a seeded
    sample of this many."""
    epochs: int = Field(20, ge=1)
    """Passes over the training images; ASHA ends the worse trials earlier."""
    min_epochs: int = Field(5, ge=1)
    """Epochs that every trial has."""
    batch_size: int = Field(32, ge=2)
    """Photographs per step."""
    learning_rate: list[Annotated[float, Field(gt=0)]] = Field(
        [0.0001, 0.0003, 0.00003, 0.001], min_length=1
    )
    """Learning rates of head and last block (AdamW, cosine decay)."""
    layer_decay: list[Annotated[float, Field(gt=0, le=1)]] = Field([0.75, 0.65, 0.9], min_length=1)
    """Each block learns at this multiple of the rate of the block above it; 1: all alike."""
    blocks: list[Annotated[int, Field(ge=1)]] = Field([2, 1, 4], min_length=1)
    """Last blocks that learn: for good, or before all others do."""
    augmentation: list[Share] = Field([0.5, 0.0, 1.0], min_length=1)
    """Strengths of random crop, rotation and colour jitter; 0: none."""
    weight_decay: list[Annotated[float, Field(ge=0)]] = Field([0.05, 0.01], min_length=1)
    """Decoupled weight decays."""
    flip: bool = False
    """Also mirror images at random. Only where left and right mean the same: a horse's two sides
    may not express the same."""

    @check(mode="after")
    def _consistent(self) -> Self:
        if self.min_epochs > self.epochs:
            raise ValueError(
                f"min_epochs: found {self.min_epochs}; write at most epochs, {self.epochs}"
            )
        return self


class Train(Section):
    """The chosen configuration, trained on all horses of the fold."""

    labels: Literal["majority", "soft"] = "majority"
    """What heads learn where several raters judged a photograph, in the search too: the choice of
    most, or every rater's, in shares (weighted by the raters' confidence where all gave one).
    Answers are always judged by the choice of most."""
    seeds: int = Field(3, ge=1, le=1000)
    """Heads trained with different seeds, their logits averaged."""
    calibrate: bool = True
    """Fit a temperature to predictions on horses that the head did not see."""
    target_accuracy: float = Field(0.9, ge=0, lt=1)
    """Share of answers to be right, on horses not seen: below the confidence that brings it the
    answer is "not sure". 0 answers everything."""


class Evaluate(Section):
    """How good the procedure is on horses it never saw."""

    n_bootstrap: int = Field(2000, ge=100)
    """Bootstrap replicates over horses."""
    confidence: float = Field(0.95, gt=0.5, lt=1)
    """Confidence of the intervals."""
    n_permutations: int = Field(200, ge=0)
    """Times the chosen configuration is trained on permuted labels, to see what chance would do; 0:
    no test. The smallest p it can find is 1 / (1 + this)."""


LEAST_POINTS = 3
"""Of the path from each neutral photograph: with its two ends alone a map is another one."""


class Explain(Section):
    """What each answer rests on, pixel by pixel, by the model that never saw the image's horse."""

    max_images: int | None = Field(None, ge=1)
    """Images explained, drawn evenly over the classes; null: all."""
    method: Literal["integrated_gradients", "captum", "occlusion", "gradcam"] = (
        "integrated_gradients"
    )
    """Integrated Gradients; or, to compare with it, what the library captum makes of the same
    score: its Integrated Gradients (n_steps points for every image), occlusion, or Grad-CAM (of
    backbones with a feature map)."""
    target: Literal["predicted", "true", "contrast"] = "predicted"
    """The score explained: the logit of the predicted class or of the true one, less the mean of
    all classes' logits; or by how much the predicted class's exceeds another's."""
    contrast: Label | None = None
    """With `target: contrast`, the other class; null, or where that is predicted: the second
    likeliest."""
    baseline: Literal["blur", "mean", "neutral", "constant"] = "blur"
    """What an image is compared with: itself blurred, the photographs' mean colour, photographs of
    a neutral class (of other horses: the mean over them is taken), or a colour. Black hides dark
    eyes."""
    blur: float = Field(1.0, gt=0, le=1)
    """With `baseline: blur`, the standard deviation as a share of the input's side. A narrow blur
    takes the eyes out of the baseline but leaves the posture in it; 1 leaves little but the
    picture's colour."""
    neutral: Label | None = None
    """With `baseline: neutral`, the class."""
    n_references: int = Field(4, ge=1, le=256)
    """With `baseline: neutral`, how many photographs, of as many horses as there are."""
    constant: tuple[Share, Share, Share] | None = None
    """With `baseline: constant`, the colour: red, green and blue, 0 to 1."""
    n_steps: int = Field(16, ge=4, le=1024)
    """Points of the integral of every image at first: regions settle at 16."""
    max_steps: int = Field(128, ge=4)
    """Points at most of an image whose completeness gap is above the tolerance: they are added
    where the integral is worst until it is not."""
    tolerance: Share = 0.05
    """Completeness gap above which points are added, and a map in the end is called rough."""
    map_px: int | None = Field(56, ge=8)
    """Side of the stored maps in pixels; null: the input's."""
    control_images: int = Field(120, ge=0)
    """Images explained again by the same network with random weights: what chance looks like."""
    batch_size: int = Field(8, ge=1)
    """Images in one pass; changes speed and memory, and results by rounding alone. Halved where
    the memory of a GPU is short."""

    @check(mode="after")
    def _consistent(self) -> Self:
        for key, given, owner, value in (
            ("contrast", self.contrast, "target", self.target),
            ("neutral", self.neutral, "baseline", self.baseline),
            ("constant", self.constant, "baseline", self.baseline),
        ):
            if given is not None and value != key:
                raise ValueError(f"`{key}` is for `{owner}: {key}`; write that, or {key}: null")
        if self.baseline == "neutral" and self.neutral is None:
            raise ValueError("`baseline: neutral` needs the class: write its name as `neutral`")
        if self.baseline == "constant" and self.constant is None:
            raise ValueError(
                "`baseline: constant` needs a colour: write `constant: [0.5, 0.5, 0.5]`, or so"
            )
        least = LEAST_POINTS * self.n_references
        if self.baseline == "neutral" and self.n_steps < least:
            raise ValueError(
                f"n_steps {self.n_steps} are shared between n_references {self.n_references}, and "
                f"each needs {LEAST_POINTS}; write n_steps (and max_steps) of at least {least}, or "
                f"n_references of at most {self.n_steps // LEAST_POINTS}"
            )
        if self.max_steps < self.n_steps:
            raise ValueError(
                f"max_steps {self.max_steps} is below n_steps; write at least {self.n_steps}"
            )
        return self

    @property
    def compared(self) -> dict[str, Any]:
        """What a photograph is compared with, for pages: ``baseline``, and ``n`` of a ``label``."""
        if self.method == "gradcam":
            return {"baseline": None}
        told: dict[str, Any] = {"baseline": self.baseline}
        if self.baseline == "neutral":
            told |= {"n": self.n_references, "label": self.neutral}
        return told


class ExplanationTests(Section):
    """Tests of the explanations, on a sample of photographs even over classes and horses."""

    n_images: int = Field(24, ge=0)
    """Photographs of the sample; 0: no tests."""
    n_steps: int = Field(8, ge=4)
    """Points of the integral for maps that are only compared with each other: ten a photograph."""
    alike: Share = 0.7
    """Rank correlation above which two maps of a photograph count as alike: half of the ranks'
    variance is common to both."""
    unlike: Share = 0.3
    """Rank correlation below which they count as unlike: a tenth is."""
    noise: Spread = 0.02
    """Largest change of a pixel (of 0-1) that nobody sees: five grey levels of 256."""
    max_change: float = Field(0.7, gt=0)
    """Change of a map under that noise, as a share of its own size, above which it counts as
    unstable. Two unrelated maps of one size differ by 1.4; this is half of it."""


class Figures(Section):
    """What people look at."""

    formats: list[Literal["svg", "pdf"]] = ["svg", "pdf"]
    """Files written of each figure, beside PNG."""
    panels: int = Field(24, ge=0)
    """Images shown one by one, drawn evenly over classes, right and wrong."""
    sheet_columns: int = Field(6, ge=1, le=20)
    """Images of each kind (confident, typical, doubtful, wrong) on a class's contact sheet."""
    gallery: int | None = Field(10_000, ge=0)
    """Photographs in the gallery, drawn evenly over the classes from those explained; null: all.
    Beyond some 50,000 the page takes seconds to open."""
    colormap: Diverging = "PuOr"
    """Diverging matplotlib colour map of signed attributions; the default is colour-blind safe."""


class Predict(Section):
    """New images for the final model."""

    images: str | None = None
    """Folder of images, or a table with column image (and x0, y0, x1, y1 where the model looks at
    the annotations' box), whose image paths start in the table's own folder. The target `predict`
    needs it."""
    regions: str | None = None
    """Table of regions in the new images, like data.regions but without need of a column horse:
    where the model looks at a box around regions."""
    explain: bool = False
    """Also write a panel of what each prediction rests on."""


class Settings(Section):
    """A study."""

    study: Name
    """Name of the study: everything it makes stands under results/<study>/."""
    seed: int = Field(1, ge=0, le=999_999)
    """Seed of every random choice."""
    data: Data
    demo: Demo | None = None
    views: dict[Name, View] = Field({"whole": View()}, min_length=1)
    """Ways to frame the horse, by name."""
    ingest: Ingest = Ingest()
    split: Split = Split()
    audit: Audit = Audit()
    controls: Controls = Controls()
    backbones: dict[Name, Backbone] = Field(min_length=1)
    """Backbones, by name."""
    features: Features = Features()
    search: Search = Search()
    transfer: Transfer = Transfer()
    train: Train = Train()
    evaluate: Evaluate = Evaluate()
    explain: Explain = Explain()
    ethogram: dict[Label, Annotated[list[str], Field(min_length=1)]] = {}
    """Regions, or roll-ups of regions, by which experts expect each class to show:
    `{alarmed: [ears, eyes]}`. How far explanations agree is measured. Empty: nothing expected."""
    explanation_tests: ExplanationTests = ExplanationTests()
    figures: Figures = Figures()
    predict: Predict = Predict()

    @check(mode="after")
    def _consistent(self) -> Self:
        if self.demo:
            _check_drawable(self.demo, self.data)
        elif not (self.data.annotations and self.data.images):
            raise ValueError("data: write the table (annotations) and the folder (images)")
        for view in {name for names in self.search.views for name in names} - set(self.views):
            raise ValueError(f"search.views: {view!r} is not under views: {list(self.views)}")
        for view in self.searched_views:
            if self.views[view].keep == "outside":
                raise ValueError(
                    f"search.views: {view!r} keeps the outside of the horse, which is for controls "
                    "alone; take it out of search.views"
                )
        if BACKGROUND in self.views and self.views[BACKGROUND].keep == "inside":
            raise ValueError(
                f"views.{BACKGROUND}: the name is the control's; write `keep: outside`, or call "
                "the view otherwise"
            )
        if self.audit.background.action == "refuse" and not self.controls.background:
            raise ValueError(
                "audit.background.action: refuse, but controls.background: false leaves nothing to "
                "refuse; write controls.background: true, or another action"
            )
        if RANDOM in self.backbones:
            raise ValueError(
                f"backbones: {RANDOM!r} is the control's name; call the backbone otherwise"
            )
        for name in set(self.search.backbones) - set(self.backbones):
            raise ValueError(f"search.backbones: {name!r} is not under {list(self.backbones)}")
        for key, label in (("contrast", self.explain.contrast), ("neutral", self.explain.neutral)):
            if label not in (None, *self.data.classes):
                other = ""
                if key == "neutral":
                    other = ", or without a resting class `baseline: blur` and `neutral: null`"
                raise ValueError(
                    f"explain.{key}: found {label!r}, which is not among data.classes; write one "
                    f"of {', '.join(self.data.classes)}{other}"
                )
        if not self.demo and not self.data.regions:
            for name, frame in self.views.items():
                if frame.box == "regions":
                    raise ValueError(
                        f"views.{name}: box `regions` needs the table data.regions; give it, or "
                        f"take {name} out of views and search.views"
                    )
        for label in self.ethogram:
            if label not in self.data.classes:
                raise ValueError(
                    f"ethogram: {label!r} is not among data.classes; write one of "
                    f"{', '.join(self.data.classes)}, or `ethogram: {{}}`"
                )
        if self.predict.images and not self.predict.regions and "regions" in self.certain_boxes:
            raise ValueError(
                "predict.regions: null, but whatever the search chooses looks at a box around "
                "regions; write a table of the regions in the new images, like data.regions"
            )
        return self

    @property
    def searched_backbones(self) -> list[str]:
        """Backbones that take part, in the order tried."""
        return self.search.backbones or list(self.backbones)

    @property
    def searched_views(self) -> list[str]:
        """Views that take part, each once, in the order first named."""
        return list(dict.fromkeys(name for names in self.search.views for name in names))

    def control_views(self, has_boxes: bool) -> dict[str, View]:
        """The view of the background, by its name, where the data have boxes or regions."""
        known = bool(self.demo or self.data.regions or has_boxes)
        if not (self.controls.background and known):
            return {}
        return {BACKGROUND: self.views.get(BACKGROUND, HIDDEN_HORSE)}

    @property
    def control_backbones(self) -> dict[str, Backbone]:
        """The first searched backbone with random weights, unless it has such weights itself."""
        first = self.backbones[self.searched_backbones[0]]
        if not self.controls.random_weights or first.weights == "random":
            return {}
        changes = {"weights": "random", "poolings": first.poolings[:1]}
        return {RANDOM: first.model_copy(update=changes)}

    def control_networks(self, control_views: Mapping[str, View]) -> dict[str, dict[str, Any]]:
        """The views, backbone and pooling of each control that looks at pixels."""
        first = self.searched_backbones[0]
        pooling = self.backbones[first].poolings[0]
        found: dict[str, dict[str, Any]] = {}
        for view in control_views:
            found["background"] = {"views": [view], "backbone": first, "pooling": pooling}
        for name in self.control_backbones:
            views = list(self.search.views[0])
            found["random_weights"] = {"views": views, "backbone": name, "pooling": pooling}
        return found

    @property
    def n_structures(self) -> int:
        """Structures that the search space has."""
        poolings = sum(len(self.backbones[name].poolings) for name in self.searched_backbones)
        units = {"linear": 1, "mlp": len(self.search.hidden_units)}
        heads = sum(units[head] for head in self.search.heads)
        return len(self.search.views) * poolings * heads * len(self.search.weight_by)

    @property
    def certain_boxes(self) -> set[str]:
        """The kinds of box that the model will look at, whatever views the search chooses."""
        kinds: list[set[str]] = [
            {self.views[name].box for name in names} for names in self.search.views
        ]
        return set.intersection(*kinds)


def _check_drawable(demo: Demo, data: Data) -> None:
    """Refuse a demo study that asks for what cannot be drawn."""
    own = "for your own photographs delete the section demo"
    if data.annotations or data.images or data.regions or data.codes or data.columns:
        raise ValueError(
            "data: annotations, images, regions and codes stay null, and columns empty, in a study "
            f"that draws them; {own}"
        )
    for label in data.classes:
        if label not in DRAWN_SHARES:
            raise ValueError(
                f"data.classes: found {label!r}, which the demo does not draw; write some of "
                f"{', '.join(DRAWN_SHARES)}; {own}"
            )
    if demo.shortcut_class not in (None, *data.classes):
        raise ValueError(
            f"demo.shortcut_class: found {demo.shortcut_class!r}, which is not among data.classes; "
            f"write one of {', '.join(data.classes)}"
        )
    n_classes = len(data.classes)
    if demo.sessions * demo.images_per_session < n_classes:
        raise ValueError(
            f"demo.images_per_session: found {demo.images_per_session}, with demo.sessions "
            f"{demo.sessions}: fewer pictures of a horse than the {n_classes} classes it shows; "
            f"write at least {-(-n_classes // demo.sessions)}"
        )


def load(config: Mapping[str, Any], source: str = "config.yaml") -> Settings:
    """Check a parsed configuration; a UserError says everything that is wrong with it."""
    try:
        return Settings.model_validate(config)
    except ValidationError as error:
        lines = [f"{source}: {_in_words(problem)}" for problem in error.errors()]
        raise UserError("\n".join(lines)) from None


def check_paths(study: Settings) -> None:
    """Refuse folders and files that are not there; a UserError says all of them."""
    lines = []
    named = {f"backbones.{name}.weights": spec.weights for name, spec in study.backbones.items()}
    for part, keys in (("data", ("annotations", "images", "regions", "codes")),
                       ("predict", ("images", "regions"))):  # fmt: skip
        named |= {f"{part}.{key}": getattr(getattr(study, part), key) for key in keys}
    for key, path in named.items():
        if path and {*"{}"} & {*path}:
            lines.append(
                f"{key}: found {path!r}; Snakemake takes braces for a wildcard: rename it without"
            )
    photographs, new = study.data.images, study.predict.images
    for key in ("data.annotations", "data.regions", "data.codes", "predict.regions"):
        if named[key] and not Path(named[key]).is_file():
            lines.append(f"{key}: no such file {named[key]}; write the path of your table")
    if photographs and not Path(photographs).is_dir():
        lines.append(f"data.images: no such folder {photographs}; write the folder of pictures")
    for name in study.searched_backbones:
        weights = study.backbones[name].weights_file
        if weights and not Path(weights).is_file():
            lines.append(
                f"backbones.{name}.weights: no such file {weights}; write the path of a "
                ".safetensors or .pth file, or hub, or random"
            )
    if new and Path(new).is_dir() and "annotations" in study.certain_boxes:
        lines.append(
            f"predict.images: the folder {new} gives no boxes, but whatever the search chooses "
            "looks at one; write a table of the images with columns image, x0, y0, x1, y1"
        )
    if lines:
        raise UserError("\n".join(lines))


def _in_words(problem: Any) -> str:
    # pydantic marks a key of a mapping, such as the name of a view, by a part of its own.
    key = ".".join(str(part) for part in problem["loc"] if part != "[key]")
    if problem["type"] == "extra_forbidden":
        *parents, last = problem["loc"]
        known = list(_keys_at(parents))
        close = difflib.get_close_matches(str(last), known, n=1)
        advice = f"write `{close[0]}`" if close else f"known keys are {', '.join(known)}"
        return f"{key}: unknown key; {advice}"
    if problem["type"] == "missing":
        return f"{key}: missing; add it"
    found = problem["input"]
    if problem["type"] in REMEDIES:
        remedy = REMEDIES[problem["type"]].format(**problem.get("ctx", {}))
    else:  # our own words
        remedy = problem["msg"].removeprefix("Value error, ")
        if not key:  # of several sections: the message names them
            return remedy
        if isinstance(found, dict | BaseModel):
            return f"{key}: {remedy}"
    return f"{key}: found {_as_yaml(found)}; {remedy}"


def _as_yaml(value: Any) -> str:
    """A value as the user's file has it: true, false and null as YAML spells them."""
    return json.dumps(value) if value is None or isinstance(value, bool) else repr(value)


def _keys_at(path: list[Any]) -> Iterator[str]:
    """Names of the fields of the section at ``path``, skipping the free names of mappings."""
    model: type[BaseModel] = Settings
    for part in path:
        field = model.model_fields.get(str(part))
        inner = next((m for m in _models(field.annotation)), None) if field else None
        model = inner or model
    yield from model.model_fields


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in getattr(annotation, "__args__", ()):
        yield from _models(inner)


def backbone_folder(name: str, backbone: Backbone) -> Path:
    """Where a backbone's weights stand: studies that ask for the same share them."""
    asked = backbone.model_dump(mode="json", exclude={"poolings"})
    return Path("resources/backbones") / f"{name}-{digest(asked, length=8)}"
