"""The table of what the jobs used: summed by hand."""

import json
from pathlib import Path

import pytest
from equimood import efficiency


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
