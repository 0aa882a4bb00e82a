"""The table of what the jobs used: summed by hand."""

import json
from pathlib import Path

import pytest
import yaml
from equimood import efficiency, search, settings

ROOT = Path(__file__).parents[2]


def told(folder: Path, name: str, **facts: float) -> Path:
    path = folder / f"{name}.json"
    path.write_text(json.dumps({"host": "node1", **facts}))
    return path


def test_the_table_sums_and_takes_the_nearest(tmp_path):
    common = {"cores": 2, "gpus": 1}
    first = told(tmp_path, "a", wall_s=3600, cpu_s=1800, peak_mb=900, memory_mb=1000, **common)
    again = told(tmp_path, "b", wall_s=1800, cpu_s=1800, peak_mb=950, memory_mb=2000, **common)
    alone = told(tmp_path, "c", wall_s=36, cpu_s=36, peak_mb=10, memory_mb=100, cores=1, gpus=0)
    table = efficiency.summarise({"embed_shard": [first, again], "ingest": [alone]}).set_index(
        "rule"
    )
    embed = table.loc["embed_shard"]
    assert embed["jobs"] == 2 and embed["hours"] == 1.5 and embed["gpu_hours"] == 1.5
    assert embed["cpu_share"] == pytest.approx(1 / 3)
    assert embed["peak_mb"] == 900 and embed["memory_share"] == 0.9
    total = table.loc["in all"]
    assert total["jobs"] == 3 and total["hours"] == pytest.approx(1.51)
    page = efficiency.as_html(table.reset_index())
    assert "<td>1.5 h</td>" in page and "<td>36 s</td>" in page and "<td>none</td>" in page
    assert "nan" not in page


def test_what_a_study_plans_is_told_before_it_starts():
    study = settings.load(yaml.safe_load((ROOT / "config.yaml").read_text()))
    assert efficiency.planned(study, [*"0123", "final"], 2).splitlines() == [
        "4 outer folds and the final model, each with a search of 8 structures x 24 heads on 3 "
        "inner folds: 2,880 heads",
        "2 views x 1 backbone and 2 controls to embed; 2 combinations of them to compare in each "
        "outer fold",
    ]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"heads": ["mlp"], "hidden_units": [8, 16], "weight_by": [["class"], []]},
        {"n_trials": 5, "seeds": 3, "n_heads": 10, "views": [["whole"]]},
        {"seeds": 2, "n_heads": 1000},
        {"seeds": 4, "n_heads": 3},
    ],
)
def test_structures_and_heads_are_counted_as_the_search_makes_them(changes):
    content = yaml.safe_load((ROOT / "config.yaml").read_text())
    content["search"] |= changes
    content["backbones"]["other"] = {"architecture": "resnet18", "poolings": ["avg"]}
    study = settings.load(content)
    backbones = {name: study.backbones[name] for name in study.searched_backbones}
    assert study.n_structures == len(search.structures(study.search, backbones))
    assert study.search.n_heads_tried == len(search.population(study.search, 1))
    told = efficiency.planned(study, ["0", "final"], 0)
    assert told.startswith("1 outer fold and the final model")
    tried = min(study.n_structures, study.search.n_trials)
    assert (f"{tried} structures of {study.n_structures} " in told) == (tried < study.n_structures)
    assert f": {2 * tried * study.search.n_heads_tried * 3:,} heads" in told
