import hashlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from equimood import backbones, catalogue, embedding, features, settings, tables
from equimood.errors import UserError
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image
from safetensors import safe_open

SIDE = 32
SHARED = Path(__file__).parents[3] / "shared/data"


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)


def drawn(seed, width=60, height=40):
    """A picture of broad waves, uint8 (height, width, 3)."""
    y, x = np.mgrid[:height, :width] / 10
    waves = [np.sin(x * (1 + seed % 3) + c) + np.cos(y * (1 + seed % 5) + seed) for c in range(3)]
    return np.rint(127.5 + 60 * np.stack(waves, axis=-1)).astype(np.uint8)


def make_shard(n, box=(5, 3, 55, 35), first=0, view="whole"):
    """Write ``n`` pictures to the folder `images` and return their rows of tables.SHARD."""
    rows = []
    for i in range(first, first + n):
        path = Path("images") / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(drawn(i)).save(path)
        name = tables.image_id(hashlib.sha256(path.read_bytes()).hexdigest(), box, view)
        rows.append((name, view, path.name, *box, None))
    return pd.DataFrame(rows, columns=tables.SHARD.names)


def make_backbone(folder="backbone", architecture="test_efficientnet", seed=0, **spec):
    spec = settings.Backbone(architecture=architecture, weights="random",
                             **{"input_px": SIDE} | spec)  # fmt: skip
    backbones.fetch("b", spec, Path(folder), seed, Path("hub"))
    return backbones.load(Path(folder))


def embed(shard, backbone, poolings=("avg",), dtype="float32", batch_size=4, **options):
    return embedding.embed(
        shard, Path("images"), backbone, list(poolings), dtype, Path("record"), batch_size,
        **{"workers": 1} | options,
    )  # fmt: skip


def chunks(backbone, pooling="avg", dtype="float32"):
    key = embedding.store_key(backbone, pooling, dtype)
    return sorted(Path("state/features", key).glob("*.safetensors"))


def ids_in(paths):
    found = []
    for path in paths:
        with safe_open(path, "numpy") as chunk:
            found += chunk.get_tensor("image_id").tobytes().hex(" ", 16).split()
    return found


def delete_images(shard):
    for path in shard["path"]:
        (Path("images") / path).unlink()


# Embedding


def test_every_row_is_the_features_of_its_own_image():
    backbone = make_backbone()
    shard = make_shard(11)
    embedded = embed(shard.sample(frac=1, random_state=0), backbone, ["avg", "grid2"], batch_size=2)
    assert embedded.image_ids == sorted(shard["image_id"])
    paths = shard.set_index("image_id")["path"]
    for row, name in enumerate(embedded.image_ids):
        made, _ = embedding.square(Path("images") / paths[name], (5, 3, 55, 35), backbone)
        alone = backbone(embedding.pixels(made[None], "cpu"), ["avg", "grid2"])
        for pooling in ("avg", "grid2"):
            np.testing.assert_allclose(
                embedded.features[pooling][row], alone[pooling][0].numpy(), rtol=1e-4, atol=1e-7
            )
    assert len(np.unique(embedded.features["avg"], axis=0)) == 11


def test_only_missing_images_are_embedded():
    backbone, shard = make_backbone(), make_shard(8)
    assert embed(shard[:6], backbone).embedded_now == 6
    delete_images(shard[:6])  # nobody can look at them again
    seen = []
    embedded = embed(shard, backbone, progress=lambda *count: seen.append(count))
    assert embedded.embedded_now == 2
    assert seen == [(2, 2)]
    assert embedded.features["avg"].shape == (8, 256)
    assert embed(shard, backbone).embedded_now == 0


def test_a_new_pooling_is_embedded_and_the_others_are_not_again():
    backbone, shard = make_backbone(), make_shard(6)
    embed(shard[:4], backbone, ["avg"])
    before = {path: path.stat().st_mtime_ns for path in chunks(backbone)}
    both = embed(shard, backbone, ["avg", "grid2"])
    assert both.embedded_now == 6  # 4 for the grid alone, 2 for both
    assert before.items() <= {p: p.stat().st_mtime_ns for p in chunks(backbone)}.items()
    for pooling in ("avg", "grid2"):
        assert sorted(ids_in(chunks(backbone, pooling))) == sorted(shard["image_id"])


@pytest.mark.parametrize(
    "other", [{"seed": 1}, {"fit": "pad"}, {"input_px": 64}, {"mean": (0.5, 0.5, 0.5)}]
)
def test_other_weights_or_preprocessing_embed_everything_again(other):
    shard = make_shard(3)
    first = embed(shard, make_backbone())
    second = embed(shard, make_backbone("other", **other))
    assert second.embedded_now == 3
    assert second.fingerprint != first.fingerprint
    assert not np.allclose(first.features["avg"], second.features["avg"], rtol=1e-3, atol=0)


def test_precisions_have_stores_of_their_own():
    backbone, shard = make_backbone(), make_shard(3)
    single, half = embed(shard, backbone), embed(shard, backbone, dtype="float16")
    assert (single.embedded_now, half.embedded_now) == (3, 3)
    assert half.features["avg"].dtype == np.float16
    np.testing.assert_array_equal(half.features["avg"], single.features["avg"].astype(np.float16))


def test_an_image_gets_the_same_bits_whatever_it_is_embedded_with():
    backbone = make_backbone(architecture="mobilenetv2_035")
    shard = make_shard(7).sort_values("image_id", ignore_index=True)
    together = embed(shard, backbone).features["avg"]
    alone = embed(shard[4:5], make_backbone("other", architecture="mobilenetv2_035", seed=1))
    assert alone.embedded_now == 1
    for path in chunks(backbone):
        path.unlink()
    assert embed(shard[4:5], backbone).features["avg"].tobytes() == together[4].tobytes()


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import torch
torch.set_num_threads(1)
from equimood import backbones, embedding, tables

def die(done, total):
    if done == 38:
        os.kill(os.getpid(), signal.SIGKILL)

embedding.embed(tables.read("shard.parquet"), Path("images"), backbones.load(Path("backbone")),
               ["avg"], "float32", Path("record"), 1, 1, die)
"""


def test_a_killed_embed_goes_on_where_it_was():
    backbone, shard = make_backbone(), make_shard(40)
    tables.write(shard, "shard.parquet", tables.SHARD)
    scripts = str(Path(features.__file__).parents[1])
    killed = subprocess.run([sys.executable, "-c", KILLED, scripts], check=False)
    assert killed.returncode == -signal.SIGKILL
    stored = set(ids_in(chunks(backbone)))
    assert len(stored) == 2 * embedding.BATCHES_PER_CHUNK
    delete_images(shard[shard["image_id"].isin(stored)])
    resumed = embed(shard, backbone, batch_size=1)
    assert resumed.embedded_now == 8
    for path in chunks(backbone):
        path.unlink()
    make_shard(40)
    assert embed(shard, backbone, batch_size=1).features["avg"].tobytes() == (
        resumed.features["avg"].tobytes()
    )


def test_a_half_written_chunk_is_never_seen(monkeypatch):
    backbone, shard = make_backbone(), make_shard(3)
    embed(shard, backbone)
    (whole,) = chunks(backbone)
    content = whole.read_bytes()
    whole.unlink()
    # What a kill leaves in the middle of a write.
    (whole.parent / f".{whole.name}.0123abcd").write_bytes(content[: len(content) // 2])
    assert embed(shard, backbone).embedded_now == 3

    def interrupted(path):
        raise KeyboardInterrupt

    chunks(backbone)[0].unlink()
    monkeypatch.setattr("equimood.files.os.fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        embed(shard, backbone)
    assert chunks(backbone) == []


def test_several_writers_of_one_store_do_no_harm():
    backbone, shard = make_backbone(), make_shard(36)
    parts = [shard, shard.sample(frac=0.7, random_state=1), shard[10:], shard]
    start = threading.Barrier(len(parts))

    def write(part):
        start.wait()
        return embed(part, backbone, batch_size=1)

    with ThreadPoolExecutor(len(parts)) as pool:
        results = list(pool.map(write, parts))
    expected = dict(zip(results[0].image_ids, results[0].features["avg"], strict=True))
    for part, result in zip(parts, results, strict=True):
        assert result.image_ids == sorted(part["image_id"])
        for name, vector in zip(result.image_ids, result.features["avg"], strict=True):
            np.testing.assert_array_equal(vector, expected[name])
    assert embed(shard, backbone).embedded_now == 0


def test_a_job_opens_only_chunks_that_overlap_its_shard():
    backbone = make_backbone()
    shard = make_shard(6).sort_values("image_id", ignore_index=True)
    embed(shard[:3], backbone)
    embed(shard[3:], backbone)
    low, high = chunks(backbone)
    high.write_bytes(b"damaged")
    assert embed(shard[:3], backbone).embedded_now == 0
    with pytest.raises(UserError, match=rf"{high.name}: damaged .* delete it"):
        embed(shard, backbone)
    high.unlink()
    assert embed(shard, backbone).embedded_now == 3
    assert low.exists()


def test_decoding_runs_no_further_ahead_than_it_is_asked():
    backbone, shard = make_backbone(), make_shard(20)
    squares = embedding.read_squares(shard, Path("images"), backbone, workers=3, ahead=5)
    next(squares)
    time.sleep(0.3)
    delete_images(shard)
    read = 1
    with pytest.raises(UserError, match="changed since"):
        for _ in squares:
            read += 1
    assert 1 <= read <= 5


def test_decoding_threads_leave_torch_threads_alone():
    torch.set_num_threads(2)
    embed(make_shard(3), make_backbone(), workers=2)
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("change", ["deleted", "truncated", "replaced", "smaller"])
def test_a_picture_that_changed_since_ingest_is_named_and_not_stored(change):
    backbone, shard = make_backbone(), make_shard(3)
    path = Path("images/1.png")
    if change == "deleted":
        path.unlink()
    elif change == "truncated":
        path.write_bytes(path.read_bytes()[:200])
    else:
        size = (60, 40) if change == "replaced" else (20, 20)
        Image.fromarray(drawn(9, *size)).save(path)
    with pytest.raises(UserError, match=r"images/1\.png: .*run ingest again"):
        embed(shard, backbone)
    assert chunks(backbone) == []


def test_the_catalogue_names_images_as_the_store_does():
    make_shard(4)
    annotations = pd.DataFrame(
        {
            "line": [2, 3, 4, 5],
            "image": [f"{i}.png" for i in range(4)],
            "label": ["calm", "calm", "tense", "tense"],
            "horse": list("abcd"),
            **dict.fromkeys(("session", "video", "rater", "fold")),
            **dict.fromkeys(("confidence", *tables.BOX), np.nan),
        }
    )
    views = {"whole": settings.View()}
    built = catalogue.build(
        annotations, Path("images"), None, views, settings.Ingest(min_side_px=16),
        ["calm", "tense"], Path("state/facts"), 1,
    )  # fmt: skip
    shard = built.images.assign(hidden=None)[tables.SHARD.names]
    embedded = embed(shard, make_backbone())
    assert embedded.image_ids == built.images["image_id"].tolist()


def test_an_empty_shard_has_features_of_the_right_width(tmp_path):
    embedded = embed(make_shard(1)[:0], make_backbone(), ["avg", "grid2"])
    assert {name: f.shape for name, f in embedded.features.items()} == {
        "avg": (0, 256),
        "grid2": (0, 1024),
    }
    embedding.write_shard(tmp_path / "features/whole/b/000.safetensors", embedded)
    with safe_open(tmp_path / "features/whole/b/000.safetensors", "numpy") as shard:
        assert shard.get_tensor("image_id").shape == (0, 16)
        assert shard.get_tensor("grid2").shape == (0, 1024)


def test_features_too_large_for_half_precision_are_refused():
    backbone, shard = make_backbone(std=(1e-7, 1e-7, 1e-7)), make_shard(1)
    with pytest.raises(UserError, match=r"features\.dtype: .*does not fit float16; write float32"):
        embed(shard, backbone, dtype="float16")
    assert chunks(backbone, dtype="float16") == []
    assert embed(shard, backbone).embedded_now == 1


def test_uses_of_the_store_are_recorded():
    backbone = make_backbone()
    embed(make_shard(1), backbone, ["avg", "grid2"])
    expected = {f"features-{embedding.store_key(backbone, p, 'float32')}" for p in ("avg", "grid2")}
    assert set(os.listdir("record")) == expected  # noqa: PTH208


@pytest.mark.parametrize(
    ("architecture", "pooling"), [("mobilenetv2_035", "avg"), ("test_vit", "cls4_mean")]
)
def test_stored_features_are_those_of_end_to_end_pixels(architecture, pooling):
    backbone = make_backbone(architecture=architecture, input_px=64)
    shard = make_shard(5).sort_values("image_id", ignore_index=True)
    stored = embed(shard, backbone, [pooling], "float16").features[pooling].astype(np.float32)
    made = [
        embedding.square(Path("images") / path, (5, 3, 55, 35), backbone)[0]
        for path in shard["path"]
    ]
    inputs = embedding.pixels(torch.stack(made), "cpu").requires_grad_()
    direct = backbone(inputs, [pooling])[pooling].detach().numpy()
    # Half precision keeps 11 bits.
    np.testing.assert_allclose(stored, direct, rtol=2**-11, atol=1e-4 * np.abs(direct).max())


# Reading


def name_of(number):
    return hashlib.sha256(str(number).encode()).hexdigest()[:32]


def vector_of(name):
    return np.array([int(name[:4], 16), int(name[-4:], 16)], np.float32)


@hypothesis_settings(max_examples=40, deadline=None)
@given(parts=st.lists(st.sets(st.integers(0, 30), max_size=12), max_size=6),
       wanted=st.sets(st.integers(0, 30)))  # fmt: skip
def test_the_store_never_misaligns_ids_and_rows(tmp_path_factory, parts, wanted):
    store = tmp_path_factory.mktemp("store")
    for part in parts:
        ids = sorted(map(name_of, part))
        embedding._append(store, ids, np.array([*map(vector_of, ids)], np.float32).reshape(-1, 2))
    ids = pd.Index(sorted(map(name_of, wanted)), dtype="str")
    here = embedding._stored(store, ids)
    known = set(map(name_of, set().union(*parts)))
    assert here.tolist() == [name in known for name in ids]
    found = embedding._collect(store, ids[here], 2, "float32")
    for name, vector in zip(ids[here], found, strict=True):
        np.testing.assert_array_equal(vector, vector_of(name))


def write_study(folder, names, n_shards, view, width, fingerprint="f"):
    """Write shards of a view, and return their paths; every feature tells its image's name."""
    paths = []
    for shard in range(n_shards):
        ids = sorted(n for n in names if int(n[:8], 16) * n_shards >> 32 == shard)
        rows = np.array([np.resize(vector_of(name), width) for name in ids], np.float32)
        rows = rows.reshape(-1, width)
        paths.append(folder / f"features/{view}/b/{shard:03d}.safetensors")
        embedding.write_shard(paths[-1], embedding.Embedded(ids, {"avg": rows}, fingerprint, 0))
    return paths


def make_images(n, views, missing=()):
    rows = [
        {
            "photo_id": name_of(f"photo {i}"), "view": view, "image_id": name_of(f"{view} {i}"),
            "label": "calm", "horse": f"h{i}", "session": "s", "video": None, "path": f"{i}.png",
        }
        for i in range(n) for view in views if (i, view) not in missing
    ]  # fmt: skip
    return pd.DataFrame(rows).sort_values("image_id", ignore_index=True)


def test_photographs_have_every_view_that_is_asked_for():
    images = make_images(6, ["whole", "head"], missing=[(2, "head"), (4, "whole")])
    found = features.photos(images, ["whole", "head"])
    assert sorted(found["path"]) == ["0.png", "1.png", "3.png", "5.png"]
    assert found["photo_id"].is_monotonic_increasing
    for row in found.itertuples():
        i = int(row.path.split(".")[0])
        assert (row.photo_id, row.horse) == (name_of(f"photo {i}"), f"h{i}")
        assert (row.image_whole, row.image_head) == (name_of(f"whole {i}"), name_of(f"head {i}"))
    assert len(features.photos(images, ["whole"])) == 5


def test_the_matrix_follows_the_photographs_with_views_side_by_side(tmp_path):
    images = make_images(40, ["whole", "head"])
    paths = [
        path
        for view, width in (("whole", 2), ("head", 3))
        for path in write_study(
            tmp_path, images.loc[images["view"] == view, "image_id"], 3, view, width
        )
    ]
    photos = features.photos(images, ["head", "whole"]).sample(frac=0.6, random_state=2)
    found = features.matrix(paths, photos, ["head", "whole"], "b", "avg")
    assert found.shape == (24, 5) and found.dtype == np.float32
    for row, photo in zip(found, photos.itertuples(), strict=True):
        expected = [np.resize(vector_of(photo.image_head), 3), vector_of(photo.image_whole)]
        np.testing.assert_array_equal(row, np.concatenate(expected))
    again = features.matrix(reversed(paths), photos, ["head", "whole"], "b", "avg")
    np.testing.assert_array_equal(again, found)


def test_photographs_that_share_an_image_share_its_features(tmp_path):
    images = make_images(4, ["whole"])
    images.loc[1:2, "image_id"] = images.loc[3, "image_id"]  # three horses in one picture
    paths = write_study(tmp_path, set(images["image_id"]), 2, "whole", 2)
    photos = features.photos(images, ["whole"])
    found = features.matrix(paths, photos, ["whole"], "b", "avg")
    np.testing.assert_array_equal(found, [vector_of(name) for name in photos["image_whole"]])


def test_missing_and_mixed_features_are_refused(tmp_path):
    images = make_images(9, ["whole"])
    names = images["image_id"].tolist()
    photos = features.photos(images, ["whole"])
    paths = write_study(tmp_path, names[1:], 2, "whole", 2)
    with pytest.raises(UserError, match="1 of 9 images are missing; run the target embed"):
        features.matrix(paths, photos, ["whole"], "b", "avg")
    with pytest.raises(UserError, match="no pooling grid2"):
        features.matrix(paths, photos, ["whole"], "b", "grid2")
    with pytest.raises(UserError, match="no features of c, view whole"):
        features.matrix(paths, photos, ["whole"], "c", "avg")
    write_study(tmp_path, names, 1, "whole", 2, fingerprint="g")
    with pytest.raises(UserError, match="another b than the shards before it"):
        features.matrix(paths, photos, ["whole"], "b", "avg")


def test_a_shard_says_what_made_it(tmp_path):
    backbone = make_backbone()
    embedding.write_shard(tmp_path / "000.safetensors", embed(make_shard(2), backbone))
    with safe_open(tmp_path / "000.safetensors", "numpy") as shard:
        assert features.read_card(shard) == {
            "fingerprint": backbone.fingerprint,
            "embed_version": embedding.EMBED_VERSION,
        }
        assert set(shard.keys()) == {"image_id", "avg"}


WRITE_SHARDS = """
import sys
from pathlib import Path
import torch
from equimood import backbones, embedding, tables
torch.set_num_threads(1)
backbone = backbones.load(Path("backbone"))
for name in sys.argv[1:]:
    embedded = embedding.embed(
        tables.read("shard.parquet"), Path("images"), backbone, ["grid2", "avg"], "float16",
        Path("record"), batch_size=2, workers=1,
    )
    embedding.write_shard(Path(name), embedded)
    print(embedded.embedded_now)
"""


def test_the_same_job_in_another_process_writes_the_same_bytes():
    """Whether it embeds or finds everything in the store."""
    make_backbone()
    tables.write(make_shard(3), "shard.parquet", tables.SHARD)
    scripts = str(Path(features.__file__).parents[1])
    for hash_seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", WRITE_SHARDS, *(f"{hash_seed}-{i}.safetensors" for i in "abc")],
            env=os.environ | {"PYTHONPATH": scripts, "PYTHONHASHSEED": hash_seed},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert done.stdout.split() == ["3", "0", "0"]
        shutil.rmtree("state")
    written = [path.read_bytes() for path in Path().glob("*.safetensors")]
    assert len(written) == 6 and len(set(written)) == 1


# The version


def wave_weights(network):
    """Fill a network with weights that no generator of random numbers can change."""
    weights = network.state_dict()
    for n, (name, tensor) in enumerate(weights.items()):
        wave = torch.sin(torch.arange(tensor.numel(), dtype=torch.float64) * 0.7 + n)
        if tensor.ndim > 1:
            tensor.copy_((wave / tensor[0].numel() ** 0.5).view_as(tensor) * 1.5)
        elif name.endswith(("weight", "running_var")):
            tensor.copy_(1 + 0.2 * wave)
        elif tensor.is_floating_point():
            tensor.copy_(0.1 * wave)
    return weights


EMBEDDED_WITH = 1
GOLDEN: dict[tuple[str, str], list[float]] = {
    ("test_efficientnet", "grid2"): [
        0.0618,
        0.4553,
        0.2476,
        -0.0923,
        -0.225,
        -0.1582,
        0.1874,
        0.2253,
    ],
    ("test_vit", "cls4_mean"): [1.4814, 0.8281, 0.9238, 1.2676, 0.5308, 1.2334, 1.2344, -1.2881],
    ("test_resnet", "avg"): [35.0, 82.375, 239.0, 147.25, 141.375, 259.75, 157.125, 145.125],
}


@pytest.mark.parametrize(
    ("architecture", "pooling", "fit", "interpolation"),
    [
        ("test_efficientnet", "grid2", "squash", "bicubic"),
        ("test_vit", "cls4_mean", "pad", "bilinear"),
        ("test_resnet", "avg", "crop", "bicubic"),
    ],
)
def test_features_are_those_of_this_embed_version(architecture, pooling, fit, interpolation):
    import timm
    from safetensors.torch import save_file

    save_file(wave_weights(timm.create_model(architecture, num_classes=0)), "w.safetensors")
    spec = settings.Backbone(
        architecture=architecture, weights="w.safetensors", input_px=64, fit=fit, crop_share=0.875,
        interpolation=interpolation, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.25),
    )  # fmt: skip
    backbones.fetch("b", spec, Path("backbone"), 0, Path("hub"))
    backbone = backbones.load(Path("backbone"))
    stored = embed(make_shard(1), backbone, [pooling], "float16").features[pooling][0]
    found = stored[:: len(stored) // 8][:8].astype(float)
    if embedding.EMBED_VERSION != EMBEDDED_WITH:
        pytest.fail(f"EMBED_VERSION is {embedding.EMBED_VERSION}: write it here as EMBEDDED_WITH")
    expected = GOLDEN[architecture, pooling]
    if not np.allclose(found, expected, rtol=0, atol=2e-3 * np.abs(expected).max()):
        pytest.fail(
            "An image's features are no longer what stores hold. If that is intended, raise "
            f"EMBED_VERSION in features.py to {EMBEDDED_WITH + 1}, so that everything is embedded "
            f"again, and write here EMBEDDED_WITH = {EMBEDDED_WITH + 1} and, in GOLDEN, "
            f"({architecture!r}, {pooling!r}): {[round(float(f), 4) for f in found]}"
        )
