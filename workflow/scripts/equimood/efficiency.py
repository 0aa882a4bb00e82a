"""What a study's jobs ask for, and what they used of it, as tables."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
from markupsafe import Markup

from equimood import settings, usage
from equimood.files import read_json
from equimood.pages import page

_TABLE = jinja2.Environment(autoescape=True).from_string("""<style>
th, td { text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
tr:last-child td { border-top: 2px solid #222; font-weight: 600; }
</style>
<table>
<thead><tr><th>rule</th><th>jobs</th><th>run time</th><th>CPU time</th><th>of asked cores</th>
<th>peak memory</th><th>of asked memory</th><th>GPU time held</th></tr></thead>
<tbody>
{% for row in rows %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</tbody>
</table>
""")


def summarise(files: Mapping[str, Sequence[str | Path]]) -> pd.DataFrame:
    """Sum over the jobs of each rule, and over all.

    Parameters
    ----------
    files : rule -> what :func:`equimood.usage.record` wrote of its jobs.

    Returns
    -------
    rule, jobs, hours, core_hours (asked for), cpu_hours (used), cpu_share, peak_mb and memory_share
    (of the job that came nearest to what it asked for), gpu_hours (held).
    """
    rows = []
    for rule, of_rule in files.items():
        jobs = pd.DataFrame([read_json(path) for path in of_rule])
        shares = jobs["peak_mb"] / jobs["memory_mb"]
        rows.append({
            "rule": rule,
            "jobs": len(jobs),
            "hours": jobs["wall_s"].sum() / 3600,
            "core_hours": (jobs["wall_s"] * jobs["cores"]).sum() / 3600,
            "cpu_hours": jobs["cpu_s"].sum() / 3600,
            "peak_mb": jobs["peak_mb"].iloc[shares.argmax()],
            "memory_share": shares.max(),
            "gpu_hours": (jobs["wall_s"] * jobs["gpus"]).sum() / 3600,
        })  # fmt: skip
    table = pd.DataFrame(rows)
    summed = table[["jobs", "hours", "core_hours", "cpu_hours", "gpu_hours"]].sum()
    table.loc[len(table)] = {"rule": "in all", **summed}
    table.insert(5, "cpu_share", table["cpu_hours"] / table["core_hours"])
    return table.astype({"jobs": int})


def planned(study: settings.Settings, folds: Sequence[str], n_controls: int) -> str:
    """Tell in two lines what a study is about to search, train and embed.

    Parameters
    ----------
    folds : names of the outer folds and ``final``.
    n_controls : pictures of the background, and networks of random weights, that are embedded, too.
    """
    n_outer, search = len(folds) - 1, study.search
    n_structures = min(study.n_structures, search.n_trials)
    n_heads, n_inner = search.n_heads_tried, study.split.inner_splits
    n_views, n_backbones = len(study.searched_views), len(study.searched_backbones)
    n_compared = len(search.views) * n_backbones
    controls = f" and {_counted(n_controls, 'control')}" if n_controls else ""
    some = f" of {study.n_structures:,}" if n_structures < study.n_structures else ""
    lines = [
        f"{_counted(n_outer, 'outer fold')} and the final model, each with a search of "
        f"{_counted(n_structures, 'structure')}{some} x {_counted(n_heads, 'head')} on "
        f"{_counted(n_inner, 'inner fold')}: "
        f"{len(folds) * n_structures * n_heads * n_inner:,} heads",
        f"{_counted(n_views, 'view')} x {_counted(n_backbones, 'backbone')}{controls} to embed",
    ]
    if n_compared > 1:
        lines[1] += f"; {n_compared:,} combinations of them to compare in each outer fold"
    return "\n".join(lines)


def local_rules(files: Iterable[Path]) -> set[str]:
    """Rules that run on the login node, by what the rules' files declare."""
    found: set[str] = set()
    for file in files:
        for block in re.findall(r"^localrules:\n((?: +\w+,\n)+)", file.read_text(), re.MULTILINE):
            found.update(re.findall(r"\w+", block))
    return found


def asked(jobs: Mapping[str, Sequence[tuple[int, Mapping[str, Any]]]]) -> str:
    """Tell as text what jobs would ask of a cluster, rule by rule and in all.

    Parameters
    ----------
    jobs : rule -> threads and resources of each of its jobs.
    """
    form = "{:<15} {:>5} {:>6} {:>6} {:>8} {:>7} {:>11} {:>10}  {}"
    lines = [form.format("rule", "jobs", "cores", "GPUs", "memory", "time", "core hours",
                         "GPU hours", "partition")]  # fmt: skip
    total = np.zeros(3)
    for rule, of_rule in jobs.items():
        rows = np.array([
            (nodes * threads, usage.gpus_asked(resources), resources.get("runtime", 0) / 60)
            for threads, resources in of_rule
            for nodes in [resources.get("nodes", 1)]
        ])  # fmt: skip
        cores, gpus, hours = rows.T
        sums = np.array([len(rows), cores @ hours, gpus @ hours])
        total += sums
        resources = of_rule[-1][1]
        lines.append(form.format(
            rule, len(rows), f"{cores[-1]:.0f}", f"{gpus[-1]:.0f}",
            f"{resources.get('mem_mb', 0) / 1000:.0f} GB", f"{hours[-1]:.1f} h",
            f"{sums[1]:.0f}", f"{sums[2]:.0f}", resources.get("slurm_partition", "default"),
        ))  # fmt: skip
    n_jobs, core_hours, gpu_hours = (f"{value:.0f}" for value in total)
    lines.append(form.format("in all", n_jobs, "", "", "", "", core_hours, gpu_hours, "").rstrip())
    lines.append(
        "cores, GPUs, time: of one job; memory: of each of its nodes; hours: if every first "
        "attempt took its whole time"
    )
    return "\n".join(lines)


def as_html(table: pd.DataFrame) -> str:
    """Return the table as a page of its own."""
    table_html = _TABLE.render(rows=[
        (
            row["rule"], row["jobs"], _time(row["hours"]), _time(row["cpu_hours"]),
            f"{row['cpu_share']:.0%}",
            "" if np.isnan(row["peak_mb"]) else f"{row['peak_mb'] / 1000:.1f} GB",
            "" if np.isnan(row["memory_share"]) else f"{row['memory_share']:.0%}",
            _time(row["gpu_hours"]) if row["gpu_hours"] else "none",
        )
        for row in table.to_dict("records")
    ])  # fmt: skip
    return page("What the jobs used", Markup(table_html))


def _counted(n: int, thing: str) -> str:
    return f"{n:,} {thing}{'s' * (n != 1)}"


def _time(hours: float) -> str:
    if hours >= 1:
        return f"{hours:.1f} h"
    return f"{hours * 60:.1f} min" if hours >= 1 / 60 else f"{hours * 3600:.0f} s"
