"""The page and the figure of the tests of explanations, and what the first page says of them."""

import base64
from collections.abc import Mapping
from typing import Any

import jinja2
from markupsafe import Markup
from matplotlib.figure import Figure

from equimood import pages
from equimood.evaluation import with_interval
from equimood.figures import BLUE, GREY, ORANGE, PAGE_IN, REFERENCE, VERMILION, blank
from equimood.trust import ORDER

TITLE = "Can the explanations be trusted?"
ORDERS = {
    "map": ("by the map", BLUE, "-"),
    "edges": ("by edges", ORANGE, "--"),
    "random": ("at random", GREY, ":"),
}
PANELS = {
    "deletion": ("Covering", "share of the cells covered"),
    "insertion": ("Showing", "share of the cells shown"),
}

_BODY = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string("""\
<style>
.failed { color: #b23c00; } .doubtful { color: #8a6100; } .passed { color: #00695c; }
.not { color: #777; }
h3 { margin-bottom: .2rem; } h3 span { text-transform: uppercase; font-size: .8em; }
td.number { white-space: nowrap; }
</style>
<h1>{{ title }}</h1>
<p><strong>{{ summary }}</strong></p>
<p>Tested on {{ n_images }} photographs of {{ n_horses }} horses, drawn evenly over classes and horses,
each with the model that never saw its horse. In brackets are {{ "%.0f" | format(100 * confidence) }}%
intervals over horses. A test is passed where all its intervals lie where they should, failed where
one lies wholly on the other side or the map does no better than chance, and
doubtful otherwise; few photographs leave more in doubt (<code>explanation_tests.n_images</code>).</p>
{% for test in tests %}<h3><span class="{{ test.verdict.split()[0] }}">{{ test.verdict }}</span> &ensp;{{ test.title }}</h3>
<p>{{ test.how }}</p>
<table>
<thead><tr><th>measured</th><th>value</th><th>should be</th><th>photographs, horses</th></tr></thead>
<tbody>
{% for row in test.rows %}<tr><td>{{ row.name }}</td><td class="number">{{ row.value }}</td>
<td class="number">{{ row.allowed }}</td><td class="number">{{ row.n }}</td></tr>
{% endfor %}</tbody>
</table>
{% if test.means %}<p><em>{{ test.means }}</em></p>
{% endif %}{% endfor %}<h2>The curves</h2>
<img alt="Probability of the answer while cells are covered or shown, and likeness of the map after randomisation" src="data:image/png;base64,{{ figure }}">
<p>Mean probability of the answer over all photographs tested, classes together. A covered photograph still
gets an answer: where all is covered, the curves end at the probability of that, which need not be chance.
<em>Without its signs</em>, a map tells only where any network of this kind is moved at all, such as at
edges: that stays alike longer, and is shown, not judged.</p>
{% if enriched %}<h2>Does it look at the horse?</h2>
<p>The region that most often comes first in a photograph (that with the most of what speaks for the
class for its area), over all photographs explained; and, of what is no part of the horse, that which
most often comes first on the whole: with the most attribution for its area when what speaks against
the class is taken off. At last, what holds most of the score in sum, whatever its area. Where that is tack, a human, an object or the background in most
photographs of a class, the model may tell the class by it, and the first page says so; unless the
region overlaps the horse.</p>
<table>
<thead><tr><th>explained class</th><th>view</th><th>photographs</th><th>most often</th><th>in</th>
<th>outside the horse</th><th>in</th><th>most in sum</th></tr></thead>
<tbody>
{% for row in enriched %}<tr{% if row.named %} class="failed"{% endif %}><td>{{ row.target }}</td><td>{{ row.view }}</td>
<td>{{ row.n_images }}</td><td>{{ row.region }}</td><td>{{ "%.0f" | format(100 * row.share) }}%</td>
<td>{{ row.outside or "–" }}</td><td>{{ "%.0f" | format(100 * row.outside_share) }}%</td>
<td>{% if row.most_net %}{{ row.most_net }}, {{ "%.1f" | format(row.most_signed) }} logits{% else %}the horse{% endif %}</td></tr>
{% endfor %}</tbody>
</table>
{% endif %}""")  # noqa: E501


def page(found: Mapping[str, Any], figure: bytes) -> str:
    """Return the page of tests.json with its figure (PNG), what was not passed first."""
    tests = sorted(found["tests"], key=lambda test: ORDER.index(test["verdict"]))
    body = _BODY.render(
        title=TITLE,
        summary=in_a_sentence(found),
        tests=[{**test, "rows": [_row(row) for row in test["compared"]]} for test in tests],
        enriched=found["most_enriched"],
        figure=base64.b64encode(figure).decode("ascii"),
        **{name: found[name] for name in ("n_images", "n_horses", "confidence")},
    )
    return pages.page(TITLE, Markup(body))


def in_a_sentence(found: Mapping[str, Any]) -> str:
    """Say how many tests were passed, and name those that were not: ``5 of 7 tests passed; …``."""
    by_verdict: dict[str, list[str]] = {verdict: [] for verdict in ORDER}
    for test in found["tests"]:
        by_verdict[test["verdict"]].append(test["title"].lower())
    n_judged = len(found["tests"]) - len(by_verdict["not judged"])
    if not n_judged:
        return "No test could be judged."
    named = [
        f"{verdict}: {', '.join(titles)}"
        for verdict, titles in by_verdict.items()
        if titles and verdict != "passed"
    ]
    return "; ".join([f"{len(by_verdict['passed'])} of {n_judged} tests passed", *named]) + "."


def stated(found: Mapping[str, Any], not_asked: str | None = None) -> dict[str, Any]:
    """What the report's first page says of tests.json, in words.

    Parameters
    ----------
    not_asked : the class that photographs are compared with: of it nothing is asked.
    """
    rows = [row for row in found["most_enriched"] if row["target"] != not_asked]
    failed = [test for test in found["tests"] if test["verdict"] == "failed"]
    return {
        "summary": in_a_sentence(found),
        "failed": [
            {
                "title": test["title"],
                "measured": "; ".join(
                    f"{row['name']} {row['value']} (should be {row['allowed']})"
                    for row in map(_row, test["compared"])
                ),
                "means": test["means"],
            }
            for test in failed
        ],
        "outside": [row for row in rows if row["named"]],
        "leading": [row for row in rows if row["leading"]],
        "most_net": [row for row in rows if row["most_net"]],
    }


def _row(row: Mapping[str, Any]) -> dict[str, str]:
    value = row["value"]
    return {
        "name": row["name"],
        "value": "–" if value is None else with_interval(value, row["low"], row["high"]),
        "allowed": f"{row['side']} {row['threshold']:g}",
        "n": f"{row['n_images']}, {row['n_horses']}",
    }


def curves(found: Mapping[str, Any]) -> Figure:
    """Draw the mean curves of covering and showing, and how the map is lost with the weights."""
    figure = blank(PAGE_IN, 2.7)
    panels = figure.subplots(1, 3)
    for axes, (test, (title, label)) in zip(panels[:2], PANELS.items(), strict=True):
        for of, (words, color, style) in ORDERS.items():
            curve = [row for row in found["curves"] if (row["test"], row["of"]) == (test, of)]
            at, values = ([row[key] for row in curve] for key in ("at", "value"))
            axes.plot(at, values, style, color=color, label=words)
        axes.set_title(title)
        axes.set_xlabel(label)
        axes.set_ylim(0, 1.02)
        axes.set_xlim(0, 1)
    panels[0].set_ylabel("probability of the answer")
    panels[0].legend(loc="upper right")
    axes = panels[2]
    for of, words, color in (("map", "map", BLUE), ("strength", "without its signs", VERMILION)):
        rows = [row for row in found["cascade"] if row["of"] == of and row["value"] is not None]
        at = [row["at"] for row in rows]
        ends = [[row["value"] if row[end] is None else row[end] for row in rows]
                for end in ("low", "high")]  # fmt: skip
        axes.vlines(at, *ends, color=color, alpha=0.55, linewidth=2)
        axes.plot(at, [row["value"] for row in rows], "o-", color=color, markersize=4, label=words)
    threshold = next(t for t in found["tests"] if t["test"] == "randomisation")["compared"][0]
    axes.axhline(threshold["threshold"], **REFERENCE)
    axes.set_title("Forgetting")
    axes.set_xlabel("share of the blocks drawn anew\n(0: the head alone)")
    axes.set_ylabel("rank correlation with the map")
    axes.set_ylim(min(-0.1, axes.dataLim.y0 - 0.05), 1.02)
    axes.legend(loc="upper right")
    return figure
