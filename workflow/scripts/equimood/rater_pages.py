"""The two pages of the report on raters: how far they agree, and the model's ceiling."""

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
from markupsafe import Markup

from equimood import pages
from equimood.raters import BETWEEN_TWO, MEASURES, MIN_SHARED

ONE_RATER = (
    "One rater a photograph: agreement cannot be stated. Whether another person would give the "
    "same labels is not known."
)
NONE_COMPARABLE = (
    "No two named raters judged the same photographs, or fewer than "
    f"{MIN_SHARED} of those the model was tested on: its agreement cannot be set beside theirs."
)
KINDS = {
    "pairwise": "Two raters with each other; the model with each rater",
    "consensus": "Each rater, and the model, with the majority of the other raters",
}
MAX_PAIRS = 100

_BODY = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string("""\
<h1>{{ title }}</h1>
<p>{{ words }}</p>
{% if figure %}<img alt="{{ title }}" src="data:image/png;base64,{{ figure }}">
{% endif %}{% for table in tables %}<h2>{{ table.caption }}</h2>
<table>
<thead><tr>{% for name in table.columns %}<th>{{ name }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in table.rows %}<tr style="white-space: nowrap">
{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</tbody>
</table>
{% endfor %}""")


def agreement(found: Mapping[str, Any], figure: bytes) -> str:
    """Return the page of :func:`equimood.raters.agreement` with its figure (PNG)."""
    title = "How far the raters agree"
    if not found["n_photos"]:
        return _page(title, ONE_RATER)
    names = list(found["raters"])
    words = (
        f"{found['n_photos']:,} photographs of {found['n_horses']} horses have two ratings or "
        f"more, those left out of the study because the raters disagree among them; {len(names)} "
        f"raters have a name. {_intervals(found)}"
    )
    if found["n_contradictions"]:
        words += (
            f" {found['n_contradictions']:,} times a rater gave one photograph two classes: these "
            "ratings are left out here."
        )
    if "icc_2_1" in found:
        words += (
            f" Intraclass correlations are of the classes' steps, on {found['n_icc_photos']:,} "
            "photographs that every named rater judged."
        )
    tables = [
        {
            "caption": "All photographs (Cohen's kappa: mean over pairs of raters)",
            "columns": ["measure", "value and interval"],
            "rows": [(MEASURES[name], printed(found[name])) for name in MEASURES if name in found],
        },
        {
            "caption": "By class: the chance that a second rater sees it too, and the kappa of "
            "this class against all others",
            "columns": ["class", "ratings", "specific agreement", "Fleiss' kappa"],
            "rows": [
                (name, f"{of['n_ratings']:,}", printed(of["specific_agreement"]),
                 printed(of["fleiss_kappa"]))
                for name, of in found["classes"].items()
            ],
        },
        {
            "caption": "By rater: mean over the other raters",
            "columns": ["rater", "photographs", *(MEASURES[name] for name in BETWEEN_TWO)],
            "rows": [
                (name, f"{of['n_photos']:,}", *(printed(of[measure]) for measure in BETWEEN_TWO))
                for name, of in found["raters"].items()
            ],
        },
        {
            "caption": f"Pairs of raters with {MIN_SHARED} photographs or more in common"
            + (f" (the first {MAX_PAIRS})" if len(found["pairs"]) > MAX_PAIRS else ""),
            "columns": ["rater", "rater", "photographs", *(MEASURES[m] for m in BETWEEN_TWO)],
            "rows": [
                (of["a"], of["b"], f"{of['n_photos']:,}", *(printed(of[m]) for m in BETWEEN_TWO))
                for of in found["pairs"][:MAX_PAIRS]
            ],
        },
    ]  # fmt: skip
    tables = [table for table in tables if table["rows"]]
    return _page(title, words, figure, tables)


def ceiling(found: Mapping[str, Any], figure: bytes) -> str:
    """Return the page of :func:`equimood.raters.ceiling` with its figure (PNG)."""
    title = "The model among the raters"
    if not found["n_raters"]:
        return _page(title, NONE_COMPARABLE)
    words = (
        f"{found['n_photos']:,} photographs of {found['n_horses']} horses that two raters or more "
        f"judged, and the model that never saw the horse. {_intervals(found)} Where the interval "
        "of the difference reaches 0, no difference from one more rater is shown. Photographs on "
        "which no majority agreed are not here: on all, raters agree less."
    )
    tables = [
        {
            "caption": KINDS[kind],
            "columns": ["measure", "raters", "model", "model minus raters"],
            "rows": [
                (MEASURES[measure], printed(beside["raters"]), printed(beside["model"]),
                 printed(beside["difference"], "+.2f"))
                for measure, beside in found[kind].items()
            ],
        }
        for kind in KINDS
    ]  # fmt: skip
    tables.append({
        "caption": "Rater by rater: Cohen's kappa",
        "columns": ["rater", "photographs", "with other raters", "with the model",
                    "with the others' majority", "the model with it"],
        "rows": [
            (name, f"{of['n_photos']:,}", *(
                printed(of[kind]["cohen_kappa"][who])
                for kind in KINDS for who in ("raters", "model")
            ))
            for name, of in found["raters"].items()
        ],
    })  # fmt: skip
    return _page(title, words, figure, tables)


def printed(figure: Mapping[str, float | None], form: str = ".2f") -> str:
    """Print a figure as ``0.72 [0.65, 0.80]``; a dash where there is none."""
    value, low, high = (figure[key] for key in ("value", "low", "high"))
    if value is None:
        return "–"
    if low is None or high is None:
        return f"{value:{form}}"
    return f"{value:{form}} [{low:{form}}, {high:{form}}]"


def _intervals(found: Mapping[str, Any]) -> str:
    return f"Brackets: {found['confidence']:.0%} intervals over horses (bootstrap and jackknife)."


def _page(
    title: str, words: str, figure: bytes = b"", tables: Sequence[Mapping[str, Any]] = ()
) -> str:
    png = base64.b64encode(figure).decode("ascii")
    body = _BODY.render(title=title, words=words, figure=png, tables=tables)
    return pages.page(title, Markup(body))
