"""Annotations and picture files become the catalogue: one row per usable photograph and view.

Whatever cannot be used is quarantined with a reason and a remedy. A photograph is one horse in one
picture; a picture that shows two horses, each with its own box, makes two photographs.
"""

import hashlib
import os
import stat
import time
import unicodedata
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import combinations, pairwise
from math import comb
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from joblib import Parallel, delayed

from equimood import images, tables
from equimood.errors import UserError
from equimood.files import written_whole
from equimood.logs import Progress, log
from equimood.settings import Ingest, View
from equimood.tables import BOX

FACTS_VERSION = 2  # goes up when images.measure changes what it returns
MEASURED = [
    ("sha256", pa.string()),
    ("width", pa.int32()),
    ("height", pa.int32()),
    ("phash", pa.uint64()),
    ("mean", pa.float64()),
    ("contrast", pa.float64()),
    *((field.name, field.type) for field in tables.COLOURS if field.name != "photo_id"),
]
KEY = [("path", pa.string()), ("size", pa.int64()), ("mtime_ns", pa.int64())]
REFUSAL = [("reason", pa.string()), ("remedy", pa.string())]
FACTS = pa.schema([*KEY, *MEASURED])
LOOKED = pa.schema([KEY[0], *MEASURED, *REFUSAL])
FACT_NAMES = [name for name, _ in MEASURED]
NULLABLE = {pa.int32(): pd.Int32Dtype(), pa.uint64(): pd.UInt64Dtype()}  # floats garble a hash
SAVE_EVERY_S = 30.0  # what a kill may lose
FILES_PER_TASK = 32
POOL_FROM_FILES = 500
INSIDE_SHARE = 0.9  # of a box's area that must lie in the picture; raters overshoot its edge
SAME_BOX = 0.5  # of the frame of all boxes of a photograph that is common to all of them
MAX_NEAR_DUPLICATES = 200_000
HIDDEN_CELLS = 8  # per side of a picture, to which hidden boxes are widened
COVERED_SHARE = 0.9  # of a horse's box, from which on its regions alone say where it is


@dataclass(frozen=True)
class Catalogue:
    """What can be used, and what the audit judges it by.

    ``images``, ``ratings``, ``quarantine`` and ``near_duplicates`` as in tables;
    ``controls`` (tables.CONTROLS): images that no search sees; ``colours`` (tables.COLOURS) and
    ``covariates`` (photo_id, then text) of each photograph.
    """

    images: pd.DataFrame
    ratings: pd.DataFrame
    quarantine: pd.DataFrame
    near_duplicates: pd.DataFrame
    controls: pd.DataFrame
    colours: pd.DataFrame
    covariates: pd.DataFrame


def build(
    annotations: pd.DataFrame,
    images_dir: Path,
    regions: pd.DataFrame | None,
    views: dict[str, View],
    ingest: Ingest,
    classes: list[str],
    state_dir: Path,
    workers: int,
    progress: Progress | None = None,
    controls: Mapping[str, View] | None = None,
) -> Catalogue:
    """Merge the raters, look at every file once, frame every view, and refuse what is of no use.

    Parameters
    ----------
    annotations, regions : from ``tables.read_annotations`` and ``tables.read_regions``.
    images_dir : folder that the tables' paths start from and must not leave.
    state_dir : keeps what is known of a file by path, size and time of change.
    workers : processes that decode pictures.
    controls : views that no search sees; a photograph that lacks one is not refused for it.

    Raises
    ------
    UserError : more than ``ingest.max_refused`` is refused (the list is left in ``state_dir``), or
        a class has no photograph left.
    """
    root = Path(os.path.realpath(images_dir))
    if not root.is_dir():
        raise UserError(f"data.images: {images_dir} is not a folder; write the folder of pictures")
    if regions is not None and set(regions["image"]).isdisjoint(annotations["image"]):
        raise UserError(
            f"data.regions: no image of it is in the annotations, such as {regions['image'][0]!r} "
            f"against {annotations['image'].iloc[0]!r}; write the same names in both tables"
        )
    votes = _votes(annotations)
    photos = _merge_raters(votes, classes, ingest.min_agreement)
    torn = photos["reason"].notna()
    found = _facts(pd.Series(photos["image"].unique()), root, ingest, state_dir, workers, progress)
    # A file that cannot be used comes before what its raters said of it.
    photos["reason"] = photos["image"].map(found["reason"]).fillna(photos["reason"])
    photos["remedy"] = photos["image"].map(found["remedy"]).fillna(photos["remedy"])
    photos = photos.join(found[FACT_NAMES], on="image")
    if any(view.box == "annotations" for view in views.values()):
        _refuse_torn_boxes(photos, annotations)
    else:
        _tell_outside(annotations, photos, "annotations")
    if regions is not None:
        _tell_outside(_boxed(regions, [*tables.REGIONS, tables.WHOLE]), photos, "regions")
    _tell_nameless(annotations)
    _refuse_copies(photos)
    torn &= photos["image"].map(found["reason"]).isna()
    known = photos["sha256"].notna()
    photos.loc[known, "photo_id"] = [
        hashlib.sha256(text.encode()).hexdigest()[:32]
        for text in photos.loc[known, "sha256"] + photos.loc[known, "horse"]
    ]
    usable = photos[photos["reason"].isna()].copy()
    frames = pd.concat(
        [framed(usable, name, view, regions, ingest) for name, view in views.items()],
        ignore_index=True,
    )
    refused = pd.concat(
        [photos[photos["reason"].notna()].assign(view=None), frames[frames["reason"].notna()]],
        ignore_index=True,
    ).sort_values(["line", "view"])
    quarantine = refused[tables.QUARANTINE].reset_index(drop=True)
    # A photograph that is refused is missing in every view.
    n_frames = pd.Series(1, quarantine.index).where(quarantine["view"].notna(), len(views))
    commonest = _commonest(quarantine["reason"], n_frames)
    refused_share = n_frames.sum() / (len(photos) * len(views))
    if len(quarantine):
        log.warning("%.1f %% refused: %s", 100 * refused_share, commonest)
    if refused_share > ingest.max_refused:
        listed = state_dir / "quarantine.csv"
        _write_csv(quarantine, listed)
        raise UserError(
            f"{n_frames.sum()} of {len(photos) * len(views)} photographs and views "
            f"({refused_share:.1%}) cannot be used: {commonest}. {listed} lists them, with what to "
            f"do; mend them, or raise ingest.max_refused (now {ingest.max_refused:g})"
        )

    frames = _named(frames[frames["reason"].isna()].assign(hidden=None), ingest.shards)
    # Without those on which raters disagree, agreement would look better than it is.
    judged = usable[usable["photo_id"].isin(frames["photo_id"])]
    judged = pd.concat([judged, photos[torn]])[["photo_id", "image", "horse"]]
    ratings = votes.merge(judged.drop_duplicates("photo_id"), on=["image", "horse"])
    ratings = ratings.sort_values(["photo_id", "rater", "label", "line"], ignore_index=True)
    for label in classes:
        if not (frames["label"] == label).any():
            raise UserError(
                f"data.classes: no usable photograph of {label!r} is left; refused were: "
                f"{commonest or 'none'}"
            )
    kept = frames[["photo_id", "horse", "phash"]].drop_duplicates("photo_id")
    pairs = near_duplicates(kept, ingest.near_duplicate_bits)
    log.info(
        "%d of %d photographs usable, %d near-duplicates across horses",
        len(kept), len(photos), len(pairs),
    )  # fmt: skip
    photos = usable[usable["photo_id"].isin(kept["photo_id"])].sort_values("photo_id")
    hiding = [hidden(photos, name, view, regions) for name, view in (controls or {}).items()]
    aside = pd.concat(hiding or [photos.iloc[:0].assign(view="", hidden=None)], ignore_index=True)
    return Catalogue(
        frames[tables.IMAGES.names],
        ratings[tables.RATINGS.names],
        quarantine,
        pairs,
        _named(aside, ingest.shards)[tables.CONTROLS.names],
        photos[tables.COLOURS.names].reset_index(drop=True),
        _covariates(annotations, photos),
    )


def write(catalogue: Catalogue, folder: Path, n_shards: int) -> None:
    """Write the catalogue; every shard gets its label-free file, be it empty."""
    tables.write(catalogue.images, folder / "images.parquet", tables.IMAGES)
    tables.write(catalogue.ratings, folder / "ratings.parquet", tables.RATINGS)
    tables.write(
        catalogue.near_duplicates, folder / "near_duplicates.parquet", tables.NEAR_DUPLICATES
    )
    _write_csv(catalogue.quarantine, folder / "quarantine.csv")
    tables.write(catalogue.controls, folder / "controls.parquet", tables.CONTROLS)
    tables.write(catalogue.colours, folder / "colours.parquet", tables.COLOURS)
    given = pa.schema([pa.field(name, pa.string()) for name in catalogue.covariates])
    tables.write(catalogue.covariates, folder / "covariates.parquet", given)
    shown = catalogue.images.assign(hidden=None)
    every = pd.concat([shown, catalogue.controls]) if len(catalogue.controls) else shown
    every = every.sort_values("image_id")
    shards = every["shard"].to_numpy()
    for shard in range(n_shards):
        first, last = np.searchsorted(shards, [shard, shard + 1])
        rows = every.iloc[first:last]
        tables.write(rows, folder / "shards" / f"{shard:03d}.parquet", tables.SHARD)


def near_duplicates(photos: pd.DataFrame, bits: int) -> pd.DataFrame:
    """Pairs of photographs of two horses whose perceptual hashes differ in at most ``bits`` bits.

    Parameters
    ----------
    photos : photo_id, horse, phash.

    Returns
    -------
    tables.NEAR_DUPLICATES; ``image_a`` and ``image_b`` are photo_ids. Photographs of one horse with
    one hash are listed by the first of them; at most MAX_NEAR_DUPLICATES pairs.
    """
    one_each = photos.sort_values("photo_id").drop_duplicates(["horse", "phash"])
    one_each = one_each.sort_values(["horse", "phash"], ignore_index=True)
    horses = one_each["horse"].factorize()[0]
    hashes = one_each["phash"].to_numpy(np.uint64)
    first, second = _near_pairs(hashes, horses, bits)
    a, b = one_each.iloc[first], one_each.iloc[second]
    return pd.DataFrame(
        {
            "image_a": a["photo_id"].array,
            "image_b": b["photo_id"].array,
            "horse_a": a["horse"].array,
            "horse_b": b["horse"].array,
            "bits": np.bitwise_count(hashes[first] ^ hashes[second]).astype("int32"),
        }
    ).sort_values(["bits", "image_a", "image_b"], ignore_index=True)


def _near_pairs(hashes: np.ndarray, groups: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of hashes (n,) of different groups (n,) at most ``bits`` bits apart, each once.

    Of ``bits + k`` bands of a hash, at least k are equal in such a pair: one sorted table for each
    choice of k bands finds them all without comparing all pairs (Manku et al. 2007, "Detecting
    near-duplicates for web crawling"). ``groups`` must be sorted.
    """
    n = len(hashes)

    def cost(k: int) -> float:
        return comb(bits + k, k) * (5 + n / 2 ** (64 * k / (bits + k)))

    k = min(range(1, 6), key=cost)
    edges = np.linspace(0, 64, bits + k + 1).astype(int).tolist()
    bands = [(1 << high) - (1 << low) for low, high in pairwise(edges)]
    found = [np.empty(0, np.int64)]
    for chosen in combinations(bands, k):
        keys = hashes & np.uint64(sum(chosen))
        order = np.argsort(keys, kind="stable")  # within a key, groups stay in order
        sorted_keys, sorted_hashes, sorted_groups = keys[order], hashes[order], groups[order]
        new_run = (sorted_keys[1:] != sorted_keys[:-1]) | (sorted_groups[1:] != sorted_groups[:-1])
        ends = np.append(np.flatnonzero(new_run) + 1, n)
        a, b = np.arange(n), np.repeat(ends, np.diff(ends, prepend=0))
        while True:  # compares with the next of another group, the one after it … of the same key
            a, b = a[b < n], b[b < n]
            same = sorted_keys[a] == sorted_keys[b]
            a, b = a[same], b[same]
            if not len(a):
                break
            near = np.bitwise_count(sorted_hashes[a] ^ sorted_hashes[b]) <= bits
            one, other = order[a[near]], order[b[near]]
            found.append(np.minimum(one, other) * n + np.maximum(one, other))
            if sum(map(len, found)) > 2 * MAX_NEAR_DUPLICATES:
                found = [np.unique(np.concatenate(found))]
                if len(found[0]) > MAX_NEAR_DUPLICATES:
                    log.warning("more than %d near-duplicates: some left out", MAX_NEAR_DUPLICATES)
                    return np.divmod(found[0][:MAX_NEAR_DUPLICATES], n)
            b = b + 1
    return np.divmod(np.unique(np.concatenate(found)), n)


def _votes(annotations: pd.DataFrame) -> pd.DataFrame:
    """The annotations, sorted, without a rater's repeated rows: they count once."""
    order = ["image", "horse", "rater", "label", "line"]
    rows = annotations.assign(
        session=annotations["session"].fillna(annotations["video"])
    ).sort_values(order, ignore_index=True)
    again = rows["rater"].notna() & rows.duplicated(["image", "horse", "rater", "label"])
    return rows[~again]


def _merge_raters(rows: pd.DataFrame, classes: list[str], min_agreement: float) -> pd.DataFrame:
    """One row per image and horse with the label that most of its votes chose."""
    columns = ["line", "image", "horse", "session", "video", "fold", *BOX]
    photo = rows.groupby(["image", "horse"]).ngroup().to_numpy()
    label = pd.Index(classes).get_indexer(pd.Index(rows["label"]))
    n_photos, n_classes = photo.max() + 1, len(classes)
    votes = np.bincount(photo * n_classes + label, minlength=n_photos * n_classes)
    votes = votes.reshape(n_photos, n_classes)
    top, n_raters = votes.max(axis=1), votes.sum(axis=1)
    photos = rows[columns].groupby(photo).first() if n_photos < len(rows) else rows[columns].copy()
    photos = photos.reset_index(drop=True)
    photos["line"] = rows["line"].groupby(photo).min().to_numpy()
    photos["label"] = pd.Series(np.array(classes)[votes.argmax(axis=1)], dtype="str")
    photos["agreement"] = top / n_raters
    photos["n_raters"] = n_raters.astype("int32")
    tie = (votes == top[:, None]).sum(axis=1) > 1
    low = ~tie & (photos["agreement"] < min_agreement).to_numpy()
    photos["reason"] = pd.Series(None, index=photos.index, dtype="str")
    photos["remedy"] = photos["reason"]
    photos.loc[tie | low, "reason"] = [
        ("contradictory: no majority: " if is_tie else "low agreement: ")
        + ", ".join(f"{name} {n}" for name, n in zip(classes, counts, strict=True) if n)
        for is_tie, counts in zip(tie[tie | low], votes[tie | low], strict=True)
    ]
    photos.loc[tie, "remedy"] = "have another rater judge it, or leave it out"
    photos.loc[low, "remedy"] = (
        f"have more raters judge it; ingest.min_agreement asks for {min_agreement:g}"
    )
    return photos


def _facts(
    names: pd.Series,
    root: Path,
    ingest: Ingest,
    state_dir: Path,
    workers: int,
    progress: Progress | None,
) -> pd.DataFrame:
    """What is known of each named file, or why it is refused: indexed by name."""
    files = located(names, root, "data.images")
    known = _known(state_dir)
    measured = files.merge(known, on=["path", "size", "mtime_ns"], how="left")
    new = measured[measured["sha256"].isna() & measured["reason"].isna()]
    new = new[["path", "size", "mtime_ns"]].drop_duplicates("path")
    if len(new):
        n_known = int(measured["sha256"].notna().sum())
        log.info("pictures: %d new or changed, %d known", len(new), n_known)
        looked = _measure(new, ingest.max_pixels, state_dir, workers, progress)
        files = files.merge(looked[["path", "reason", "remedy"]], on="path", how="left")
        for name in ("reason", "remedy"):
            files[name] = files.pop(f"{name}_x").fillna(files.pop(f"{name}_y"))
        known = pd.concat([known, looked[FACTS.names]], ignore_index=True)
        measured = files.merge(known, on=["path", "size", "mtime_ns"], how="left")
    measured = measured.set_index("image")
    sides = measured[["width", "height"]].astype(float)
    poor = (
        (sides.min(axis=1) < ingest.min_side_px)
        | (sides.prod(axis=1, min_count=2) > ingest.max_pixels)
        | (measured["contrast"] < ingest.min_contrast)
    ) & measured["reason"].isna()
    refusals = [
        _refusal(images.Facts(*facts), ingest)
        for facts in measured.loc[poor, FACT_NAMES].itertuples(index=False)
    ]
    measured.loc[poor, "reason"] = [reason for reason, _ in refusals]
    measured.loc[poor, "remedy"] = [remedy for _, remedy in refusals]
    return measured


def _refusal(facts: images.Facts, ingest: Ingest) -> tuple[str, str]:
    try:
        images.check(
            facts,
            max_pixels=ingest.max_pixels,
            min_side_px=ingest.min_side_px,
            min_contrast=ingest.min_contrast,
        )
    except images.ImageError as error:
        return error.reason, error.remedy
    raise AssertionError(f"images.check accepts {facts}")


def located(names: pd.Series, root: Path, key: str) -> pd.DataFrame:
    """Real path, size and time of change of each file inside ``root``, or why it is refused.

    ``key`` of the settings names the root.
    """
    folders: dict[str, str] = {}
    listings: dict[str, dict[str, str]] = {}

    def locate(name: str) -> tuple[str | None, int, int, str | None, str | None]:
        folder, file = os.path.split(os.path.join(root, name))  # noqa: PTH118
        try:
            if folder not in folders:
                folders[folder] = os.path.realpath(folder)
            path = f"{folders[folder]}/{file}"
            if file in ("", ".", ".."):
                path = os.path.realpath(path)
            facts = os.lstat(path)
            if stat.S_ISLNK(facts.st_mode):
                path = os.path.realpath(path)
                facts = os.stat(path)  # noqa: PTH116
        except (OSError, ValueError):
            advice = f"no such file under {root}; check {key} and the spelling"
            if close := _spelt(file, folders.get(folder, folder), listings):
                advice = f"the folder has {close!r}: write the same letters"
            elif "\\" in name:
                advice = "write / between folders"
            return None, 0, 0, "missing", advice
        if not path.startswith(f"{root}/".replace("//", "/")):
            return None, 0, 0, "outside the image folder", f"copy the picture into {root}"
        if not stat.S_ISREG(facts.st_mode):
            return None, 0, 0, "unreadable: not a file", "write the path of a picture"
        return path, facts.st_size, facts.st_mtime_ns, None, None

    with ThreadPoolExecutor(8) as threads:  # a network disk answers many questions at once
        parts = threads.map(
            lambda part: [locate(name) for name in part], _chunks(names.tolist(), 1000)
        )
        rows = [row for part in parts for row in part]
    found = pd.DataFrame(rows, columns=["path", "size", "mtime_ns", "reason", "remedy"])
    found = found.astype(dict.fromkeys(("path", "reason", "remedy"), "str"))
    return found.assign(image=names.to_numpy())


def _spelt(file: str, folder: str, listings: dict[str, dict[str, str]]) -> str | None:
    """The file of the folder whose name differs in case or in the form of its accents."""

    def plain(name: str) -> str:
        return unicodedata.normalize("NFC", name).casefold()

    if folder not in listings:
        try:
            listings[folder] = {plain(name): name for name in os.listdir(folder)}  # noqa: PTH208
        except (OSError, ValueError):
            listings[folder] = {}
    return listings[folder].get(plain(file))


def _known(state_dir: Path) -> pd.DataFrame:
    """What earlier runs learnt of files; the last word on each path."""
    parts = [FACTS.empty_table()]
    for part in _parts(state_dir):
        try:
            parts.append(pq.read_table(part))
        except FileNotFoundError:  # another study has just put the parts together
            continue
    known = pa.concat_tables(parts).to_pandas(types_mapper=NULLABLE.get)
    return known.drop_duplicates("path", keep="last")


def _parts(state_dir: Path) -> list[Path]:
    return sorted(state_dir.glob(f"facts-{FACTS_VERSION}-*.parquet"))


def _save(rows: pd.DataFrame, state_dir: Path) -> None:
    if rows.empty:
        return
    name = f"facts-{FACTS_VERSION}-{time.time_ns():020d}-{uuid.uuid4().hex[:8]}.parquet"
    tables.write(rows, state_dir / name, FACTS)


def _measure(
    files: pd.DataFrame,
    max_pixels: int,
    state_dir: Path,
    workers: int,
    progress: Progress | None,
) -> pd.DataFrame:
    """Look at files (path, size, mtime_ns), keeping what is learnt as work goes on.

    Refusals are not kept: they are few, and permissions or limits may change under them.
    """
    results: list[pd.DataFrame] = []
    pending: list[dict] = []
    done, saved = 0, time.monotonic()
    for rows in _looked_at(files["path"].tolist(), max_pixels, workers):
        pending += rows
        done += len(rows)
        if progress:
            progress(done, len(files))
        if done == len(files) or time.monotonic() - saved > SAVE_EVERY_S:
            looked = pa.Table.from_pylist(pending, schema=LOOKED)
            results.append(looked.to_pandas(types_mapper=NULLABLE.get).merge(files, on="path"))
            _save(results[-1][results[-1]["reason"].isna()], state_dir)
            pending, saved = [], time.monotonic()
    old = _parts(state_dir)
    if len(old) > 20:
        _save(_known(state_dir), state_dir)
        for part_file in old:
            part_file.unlink(missing_ok=True)
    return pd.concat(results, ignore_index=True)


def _looked_at(paths: list[str], max_pixels: int, workers: int) -> Iterator[list[dict]]:
    tasks = (delayed(_look)(part, max_pixels) for part in _chunks(paths, FILES_PER_TASK))
    # joblib's workers do not run the main module again, which is Snakemake's script. They take
    # seconds to start.
    n_jobs = workers if len(paths) > POOL_FROM_FILES else 1
    yield from Parallel(n_jobs=n_jobs, return_as="generator_unordered")(tasks)


def _chunks(items: list[str], size: int) -> Iterator[list[str]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _look(paths: list[str], max_pixels: int) -> list[dict]:
    rows = []
    for path in paths:
        try:
            found = asdict(images.measure(Path(path), max_pixels))
        except images.ImageError as error:
            found = {"reason": error.reason, "remedy": error.remedy}
        rows.append({"path": path} | found)
    return rows


def _refuse_copies(photos: pd.DataFrame) -> None:
    """Refuse bytes listed under several names: all of them where label or horse differ."""
    copies = photos[photos["reason"].isna() & photos.duplicated("sha256", keep=False)]
    by_file = copies.groupby("sha256")
    copies = copies[by_file["image"].transform("nunique") > 1].sort_values(["image", "horse"])
    by_file = copies.groupby("sha256")
    first, last = by_file["image"].transform("first"), by_file["image"].transform("last")
    other = first.where(copies["image"] != first, last)
    horses = by_file["horse"].transform("nunique") > 1
    labels = by_file["label"].transform("nunique") > 1
    again = ~horses & ~labels & copies.duplicated("sha256")
    for what, wrong in (("horse", horses), ("label", labels & ~horses)):
        rows = copies.index[wrong]
        said = f"contradictory: another {what} with the bytes of "
        photos.loc[rows, "reason"] = said + other[rows]
        photos.loc[rows, "remedy"] = f"find out which {what} is right and keep one row"
    rows = copies.index[again]
    photos.loc[rows, "reason"] = "duplicate: the same bytes as " + first[rows]
    photos.loc[rows, "remedy"] = "nothing to do: the first is kept"


def _refuse_torn_boxes(photos: pd.DataFrame, annotations: pd.DataFrame) -> None:
    """Refuse photographs whose rows give boxes in different places; of similar ones the first."""
    by_photo = annotations.groupby(["image", "horse"])[["line", *BOX]]
    low, high = by_photo.min(), by_photo.max()

    def area(a: pd.DataFrame, b: pd.DataFrame) -> pd.Series:
        return (b["x1"] - a["x0"]).clip(lower=0) * (b["y1"] - a["y0"]).clip(lower=0)

    torn = area(high, low) < SAME_BOX * area(low, high)
    at = pd.MultiIndex.from_frame(photos[["image", "horse"]])
    rows = photos.index[torn.reindex(at).to_numpy() & photos["reason"].isna()]
    lines = [f"{low['line'][at[row]]} and {high['line'][at[row]]}" for row in rows]
    photos.loc[rows, "reason"] = [f"contradictory: boxes of lines {both}" for both in lines]
    photos.loc[rows, "remedy"] = "keep the right box, or name the other horse"


def _tell_outside(rows: pd.DataFrame, photos: pd.DataFrame, table: str) -> None:
    """Warn of boxes that lie outside their pictures, and so are never seen."""
    size = photos.drop_duplicates("image").set_index("image")[["width", "height"]].astype(float)
    width, height = size.reindex(rows["image"]).to_numpy().T
    beyond = (rows["x0"] >= width) | (rows["y0"] >= height)
    outside = rows[beyond | (rows["x1"] < 0) | (rows["y1"] < 0)]
    if len(outside):
        first = outside.sort_values("line").iloc[0]
        log.warning(
            "%s: %d boxes lie outside their pictures and are not visible, the first in line %d: "
            "%s in %s pixels; boxes are in pixels of the upright picture",
            table, len(outside), first["line"], _pixels(first[BOX]),
            " × ".join(f"{side:g}" for side in size.loc[first["image"]]),
        )  # fmt: skip


def _tell_nameless(annotations: pd.DataFrame) -> None:
    """Say that equal rows without a rater count as several raters."""
    same = annotations.duplicated(["image", "horse", "label"]) & annotations["rater"].isna()
    if same.any():
        log.warning(
            "%d rows repeat an earlier one without a rater and count as further raters, the first "
            "in line %d; name the raters, or delete the copies",
            same.sum(), annotations.loc[same, "line"].min(),
        )  # fmt: skip


def _pixels(box: np.ndarray | pd.Series) -> str:
    return ", ".join(f"{edge:g}" for edge in box)


def framed(
    photos: pd.DataFrame, name: str, view: View, regions: pd.DataFrame | None, ingest: Ingest
) -> pd.DataFrame:
    """Frame photographs by one view.

    Parameters
    ----------
    photos : image, horse, sha256, width, height, x0..y1, and reason and remedy, null where usable.

    Returns
    -------
    The photographs with ``view``, x0..y1 in whole pixels inside the picture, reason and remedy.
    """
    size = photos[["width", "height"]].astype(float).to_numpy()
    if view.box == "picture":
        box = np.column_stack([np.zeros_like(size), size])
    elif view.box == "annotations":
        box = photos[BOX].to_numpy(float)
    else:
        assert regions is not None  # settings._consistent
        *edges, lines = _region_boxes(photos, regions, view.regions).T
        box = np.column_stack(edges)
    low, high = box[:, :2], box[:, 2:]
    length = np.maximum(high - low, 1e-6)  # a single point is a box, too
    inside = np.clip(np.minimum(high, size) - np.maximum(low, 0), 0, None)
    inside_share = np.where(high > low, inside / length, (low >= 0) & (low <= size)).prod(axis=1)
    room = view.margin * length.max(axis=1, keepdims=True)
    low = np.rint(np.clip(low - room, 0, size))
    high = np.rint(np.clip(high + room, 0, size))

    frames = photos.assign(view=name)
    frames[BOX] = np.column_stack([low, high])
    shorter = (high - low).min(axis=1)
    problems = [
        (np.isnan(box).any(axis=1), "no box", f"give the box that view {name!r} looks at"),
        (
            inside_share < INSIDE_SHARE,
            "box outside the picture",
            "boxes are in pixels of the upright picture",
        ),
        (
            shorter < ingest.min_side_px,
            "tiny: the box",
            f"ingest.min_side_px asks for {ingest.min_side_px}; boxes are in pixels",
        ),
    ]
    for wrong, reason, remedy in problems:
        fresh = wrong & frames["reason"].isna().to_numpy()
        frames.loc[fresh, "reason"] = reason
        frames.loc[fresh, "remedy"] = remedy
    off = np.flatnonzero(frames["reason"] == "box outside the picture")
    frames.loc[frames.index[off], "reason"] = [
        f"box outside the picture: {_pixels(box[i])} in {' × '.join(f'{s:g}' for s in size[i])}"
        + (f", line {lines[i]:g} of the regions" if view.box == "regions" else "")
        for i in off
    ]
    usable = frames[frames["reason"].isna()]
    same = usable[usable.duplicated(["sha256", *BOX], keep=False)]
    by_frame = same.groupby(["sha256", *BOX])["horse"]
    first, last = by_frame.transform("min"), by_frame.transform("max")
    two = same.index[first != last]
    both = first[two] + " and " + last[two]
    frames.loc[two, "reason"] = "contradictory: the same frame for horses " + both
    frames.loc[two, "remedy"] = "keep the horse it shows, or give each horse its box"
    return frames


def hidden(
    photos: pd.DataFrame, name: str, view: View, regions: pd.DataFrame | None
) -> pd.DataFrame:
    """Frame photographs whole, with the boxes that a view of ``keep: outside`` hides.

    With ``box: horse`` these are the boxes of tables.PARTS, or of all regions of a horse that has
    none of these; where they do not reach over the annotation's box, as regions of the face do not,
    that box as well. Boxes are widened to a coarse grid, because their exact edges tell what they
    hide: flattened ears make a lower box.

    Parameters
    ----------
    photos : as of :func:`framed`.

    Returns
    -------
    The photographs of which there is something to hide, with ``view``, x0..y1 of the whole picture
    and ``hidden`` as in tables.SHARD.
    """
    names = tables.HORSE if view.box == "horse" else view.regions
    parts: dict[tuple[str, str], list[np.ndarray]] = {}
    if view.box != "annotations" and regions is not None:
        rows = _boxed(regions, names)
        if view.box == "horse":
            part = rows["region"].isin(tables.PARTS)
            rows = rows[part | ~part.groupby([rows["image"], rows["horse"]]).transform("any")]
        for image, horse, *box in rows[["image", "horse", *BOX]].itertuples(index=False):
            parts.setdefault((image, horse), []).append(np.array(box, float))
    texts: list[Any] = []
    shape = ["image", "horse", "width", "height", *BOX]
    for image, horse, width, height, *box in photos[shape].itertuples(index=False):
        boxes = list(parts.get((image, horse), ()))
        own = np.array(box, float)
        if view.box != "regions" and not np.isnan(own).any() and not _covered(own, boxes):
            boxes.append(own)
        margins = [view.margin] * len(boxes)
        if view.box == "horse" and len(boxes) > len(parts.get((image, horse), ())):
            margins[-1] = 0.0
        size = np.array([width, height], float)
        wide = (_widened(box, room, size) for box, room in zip(boxes, margins, strict=True))
        texts.append(tables.write_hidden({box for box in wide if box is not None}) or None)
    frames = photos.assign(view=name, hidden=np.array(texts, object), x0=0, y0=0)
    frames[["x1", "y1"]] = photos[["width", "height"]]
    return frames[frames["hidden"].notna()]


def _covered(box: np.ndarray, parts: list[np.ndarray]) -> bool:
    """Say whether the box about the parts reaches over nearly all of ``box`` (x0, y0, x1, y1)."""
    if not parts:
        return False
    low, high = np.min(parts, axis=0)[:2], np.max(parts, axis=0)[2:]
    inside = np.clip(np.minimum(high, box[2:]) - np.maximum(low, box[:2]), 0, None)
    return bool(inside.prod() >= COVERED_SHARE * (box[2:] - box[:2]).prod())


def _widened(box: np.ndarray, margin: float, size: np.ndarray) -> tuple[int, int, int, int] | None:
    """Widen a box by its margin, then to HIDDEN_CELLS of a picture; None if it lies outside."""
    room = margin * (box[2:] - box[:2]).max()
    cell = size / HIDDEN_CELLS
    low, high = np.clip(box[:2] - room, 0, size), np.clip(box[2:] + room, 0, size)
    x0, y0 = np.floor(np.floor(low / cell) * cell).astype(int).tolist()
    x1, y1 = np.ceil(np.ceil(high / cell) * cell).astype(int).tolist()
    return (x0, y0, x1, y1) if (low < high).all() else None


def _named(frames: pd.DataFrame, n_shards: int) -> pd.DataFrame:
    """Give frames their image_id, their shard and the types of tables.IMAGES; in order."""
    frames = frames.astype(dict.fromkeys(["width", "height", *BOX], "int32") | {"phash": "uint64"})
    content = frames[["sha256", *BOX, "view", "hidden"]].itertuples(index=False)
    frames["image_id"] = [
        tables.image_id(sha256, box, view, hides) for sha256, *box, view, hides in content
    ]
    shards = [int(name[:8], 16) * n_shards >> 32 for name in frames["image_id"]]
    frames["shard"] = np.array(shards, np.int32)
    return frames.rename(columns={"image": "path"}).sort_values("image_id", ignore_index=True)


def _covariates(annotations: pd.DataFrame, photos: pd.DataFrame) -> pd.DataFrame:
    """Columns of the annotations that are the user's own, of each photograph."""
    names = [name for name in annotations if name not in tables.ANNOTATED | {"photo_id"}]
    of_photo = annotations.groupby(["image", "horse"])[names].first()
    keys = pd.MultiIndex.from_frame(photos[["image", "horse"]])
    found = of_photo.reindex(keys).reset_index(drop=True).astype("str")
    found.insert(0, "photo_id", photos["photo_id"].to_numpy())
    return found


def _region_boxes(photos: pd.DataFrame, regions: pd.DataFrame, wanted: list[str]) -> np.ndarray:
    """Box around the wanted regions that are visible (boxes and points), and the first's line.

    (n, 5); NaN without.
    """
    edges = (
        _boxed(regions, wanted)
        .groupby(["image", "horse"])
        .agg({"x0": "min", "y0": "min", "x1": "max", "y1": "max", "line": "min"})
    )
    wanted_photos = pd.MultiIndex.from_frame(photos[["image", "horse"]])
    return edges.reindex(wanted_photos)[[*BOX, "line"]].to_numpy(float)


def _boxed(regions: pd.DataFrame, wanted: list[str]) -> pd.DataFrame:
    """Rows of the wanted regions that are visible (boxes and points), each with a box."""
    rows = regions[
        regions["visible"] & regions["region"].isin(wanted) & (regions["kind"] != "mask")
    ]
    rows = rows[["image", "horse", "region", "kind", "points", "line", *BOX]].copy()
    dotted = rows["kind"] == "points"
    points = [
        tables.read_points(text, line)
        for text, line in rows.loc[dotted, ["points", "line"]].itertuples(index=False)
    ]
    if points:
        rows.loc[dotted, BOX] = [[*xy.min(axis=0), *xy.max(axis=0)] for xy in points]
    return rows


def _commonest(reasons: pd.Series, counts: pd.Series) -> str:
    kinds = counts.groupby(reasons.str.replace(":.*", "", regex=True)).sum()
    return ", ".join(f"{kind} {n}" for kind, n in kinds.nlargest(3).items())


def _write_csv(quarantine: pd.DataFrame, path: Path) -> None:
    with written_whole(path) as aside:
        quarantine.to_csv(aside, index=False)
