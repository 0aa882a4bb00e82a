"""
Settings, checks before any job, and the helper functions of all rules.

INPUTS   the settings file (config.yaml or --configfile), the table of annotations
OUTPUTS  none
"""

import ast
import os
import sys
import zlib
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from snakemake.exceptions import WorkflowError

SCRIPTS = Path(workflow.basedir) / "workflow/scripts"
sys.path.insert(0, str(SCRIPTS))

from equimood import efficiency, runs, splits, tables
from equimood import settings as study_settings
from equimood.errors import UserError


@contextmanager
def mistakes_told():
    """Tell a user's mistake as Snakemake tells its own: without a traceback."""
    try:
        yield
    except UserError as error:
        raise WorkflowError(str(error)) from None


@cache
def library(rule_name):
    """The adapter of a rule and the library modules it imports, at any depth.

    As inputs they make a changed library rerun what used it, and nothing else.
    """
    found, ahead = set(), [SCRIPTS / f"{rule_name}.py"]
    while ahead:
        file = ahead.pop()
        if file in found:
            continue
        found.add(file)
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module == "equimood":
                ahead += [SCRIPTS / f"equimood/{name.name}.py" for name in node.names]
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith(
                "equimood."
            ):
                ahead.append(SCRIPTS / f"{node.module.replace('.', '/')}.py")
    return sorted(str(path) for path in found)


def plain(section):
    """A section of the settings as plain values: what stands in params decides about reruns."""
    return section.model_dump(mode="json")


def attempts(amount):
    """A resource that grows with each retry."""
    return lambda wildcards, attempt: amount * attempt


def files_state(folder):
    """Checksum over path, size and time of every file: changes when a photograph is replaced."""
    if not folder or not Path(folder).is_dir():
        return None
    root = os.path.realpath(folder)
    total, seen, ahead = 0, set(), [root]
    while ahead:
        place = os.path.realpath(ahead.pop())
        if place in seen:  # links in a circle
            continue
        seen.add(place)
        name = os.path.normpath(os.path.join(folder, os.path.relpath(place, root)))
        try:
            entries = list(os.scandir(place))
        except OSError:  # not ours to read: ingest says so
            continue
        for entry in entries:
            try:
                if entry.is_dir():
                    ahead.append(entry.path)
                    continue
                facts = entry.stat()
            except OSError:  # a link to nothing or to itself: ingest says so
                continue
            line = f"{name}/{entry.name} {facts.st_size} {facts.st_mtime_ns}"
            total += zlib.crc32(line.encode("utf-8", "surrogateescape"))
    return total


def check_inputs(settings):
    """Tell what is wrong with the tables that the settings name, and whether results can be written.

    The annotations are read, and so checked, by `study_folds`.
    """
    results = Path("results", settings.study)
    runs.check_writable([results, results / "logs", "state"])
    if settings.data.codes:
        tables.read_codes(settings.data.codes)
    views = {name: settings.views[name] for name in settings.searched_views}
    tables.check_regions(settings.data.regions, views)
    tables.check_ethogram(
        settings.data.regions, settings.ethogram, drawn=bool(settings.demo)
    )
    if settings.predict.images:
        tables.read_new_images(settings.predict.images)
    if settings.predict.regions:
        tables.read_regions(settings.predict.regions, {}, with_horse=False)


def study_folds(settings):
    """Names of the outer folds and `final`."""
    outer, drawn = settings.split.outer, settings.demo
    counted = outer in ("leave_one_horse_out", "column")
    if drawn:
        horses = [str(i) for i in range(drawn.horses)]
        folds = [None] * len(horses)
    elif counted or workflow.is_main_process:
        data = settings.data
        rows = tables.read_annotations(data.annotations, data.classes, data.columns)
        horses, folds = rows["horse"], rows["fold"]
    else:
        horses, folds = [], []
    n_folds = splits.n_outer_folds(settings.split, horses, folds)
    return [*(str(fold) for fold in range(n_folds)), "final"]


with mistakes_told():
    source = ", ".join(str(file) for file in workflow.configfiles)
    settings = study_settings.load(config, source)
    if workflow.is_main_process:
        study_settings.check_paths(settings)
    FOLDS = study_folds(settings)
    if workflow.is_main_process:  # once, before any job
        check_inputs(settings)
        ALIVE = runs.hold()

OUTER_FOLDS = [fold for fold in FOLDS if fold != "final"]
RESULTS = f"results/{settings.study}"
STATE_RECORD = f"{RESULTS}/.state"
SHARDS = [f"{shard:03d}" for shard in range(settings.ingest.shards)]
NETWORKS = settings.backbones | settings.control_backbones
BACKBONES = {
    name: str(study_settings.backbone_folder(name, spec))
    for name, spec in NETWORKS.items()
}
CONTROL_VIEWS = settings.control_views(
    bool(settings.data.annotations)
    and tables.has_boxes(settings.data.annotations, settings.data.columns)
)
if settings.demo:
    ANNOTATIONS, REGIONS, IMAGES = (
        f"{RESULTS}/demo/{name}"
        for name in ("annotations.csv", "regions.csv", "images")
    )
else:
    ANNOTATIONS, IMAGES = settings.data.annotations, settings.data.images
    REGIONS = settings.data.regions or []
FEATURES = expand(
    f"{RESULTS}/features/{{view}}/{{backbone}}/{{shard}}.safetensors",
    view=settings.searched_views,
    backbone=settings.searched_backbones,
    shard=SHARDS,
)

# What intervals over horses depend on; whether labels are permuted is none of it.
BOOTSTRAP = {
    "n_bootstrap": settings.evaluate.n_bootstrap,
    "confidence": settings.evaluate.confidence,
    "seed": settings.seed,
}

# What no search sees, by the control's name in tables and figures.
CONTROL_NETWORKS = settings.control_networks(CONTROL_VIEWS)


def control_features(*names):
    """Features of these controls, as far as the study has them."""
    return [
        f"{RESULTS}/features/{view}/{network['backbone']}/{shard}.safetensors"
        for name, network in CONTROL_NETWORKS.items()
        if name in names
        for view in network["views"]
        for shard in SHARDS
    ]


CONTROL_FEATURES = control_features(*CONTROL_NETWORKS)

ALL_BACKBONES = [f"{BACKBONES[name]}/card.yaml" for name in settings.searched_backbones]


def backbone_card(wildcards):
    """The card of the backbone that a path names."""
    return f"{BACKBONES[wildcards.backbone]}/card.yaml"


def local_weights(wildcards):
    """The user's weight file, if the backbone comes from one: a changed file is fetched again."""
    return NETWORKS[wildcards.backbone].weights_file or []


def new_images(wildcards):
    """The table of images to predict; of a folder, the files' state stands in params."""
    images = settings.predict.images
    if images is None:
        raise WorkflowError(
            "predict.images: null; write the folder, or the table, of new images"
        )
    return images if Path(images).is_file() else []


def transfer_enabled(wildcards):
    """Nothing; refuse the target `transfer` where the settings leave it out."""
    if not settings.transfer.enabled:
        raise WorkflowError(
            "transfer.enabled: false; write true, and read docs/transfer.md on what it costs"
        )
    return []


def catalogue_shard(wildcards):
    """One label-free part of the catalogue, known once ingest has run."""
    checkpoints.ingest.get()
    return f"{RESULTS}/catalogue/shards/{wildcards.shard}.parquet"


wildcard_constraints:
    fold=r"\d+|final",
    shard=r"\d{3}",
    view="|".join([*settings.views, *CONTROL_VIEWS]),
    backbone="|".join(NETWORKS),
