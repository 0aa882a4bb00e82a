"""The audit: what could make a study's figures come out too high, and what follows from it.

Checks of the splits need tables alone; the others ask how well labels can be told without the
horse (``controls``). What is found and what is made of it are apart, so that a threshold or a
written reason changes no figure.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd

from equimood import settings
from equimood.errors import UserError
from equimood.files import write_text
from equimood.logs import log
from equimood.splits import FINAL

EXAMPLES = 8
MOST_OTHERS = 0.5

ABOUT = {
    "shared_horse": (
        "Horses on both sides of a fold",
        "A model that knows the horse may recognise it instead of its emotion.",
    ),
    "shared_session": (
        "Sessions on both sides of a fold",
        "Place, light and people of a session are known to a model that trained on it.",
    ),
    "shared_video": (
        "Videos on both sides of a fold",
        "Frames of one video are nearly the same picture.",
    ),
    "near_duplicates": (
        "Nearly equal pictures on both sides of a fold",
        "They may show one horse under two names, which would then be trained on and tested.",
    ),
    "contradictory": (
        "One picture under two labels or two horses",
        "Ingest leaves such files out; they tell of mistakes in the table.",
    ),
    "class_horse": (
        "A class carried by one horse",
        "The horse may be learnt in place of the emotion.",
    ),
    "class_session": (
        "A class carried by one session",
        "The day may be learnt in place of the emotion.",
    ),
    "class_covariate": (
        "A class carried by one camera, site or other value",
        "What goes with that value may be learnt in place of the emotion.",
    ),
    "few_horses": (
        "One hold-out of few horses",
        "Which horses happen to be held out decides about the result.",
    ),
    "metadata": (
        "Labels told from the table's other columns",
        "What they stand for (a yard, a day, a camera) may be seen in the pictures.",
    ),
    "picture_facts": (
        "Labels told from size and colours of the pictures",
        "A network sees light, colours and proportions, too.",
    ),
    "background": (
        "Labels told from the background",
        "With the horse hidden, nothing should be left that tells its emotion.",
    ),
    "context": (
        "Tack, people or objects that go with a class",
        "They may be learnt in place of the emotion.",
    ),
}
"""Per check: how the page calls it, and why it matters."""

REMEDIES = {
    "shared_session": "give the horses of a session one fold (a column `fold`, and `split.outer: "
    "column`); if sessions are numbered anew for each horse, write the horse into their names, as "
    "bella_1",
    "shared_video": "give the horses of a video one fold (a column `fold`, and `split.outer: "
    "column`); if videos are numbered anew for each horse, write the horse into their names",
    "near_duplicates": "look at the pictures: if it is one horse, write one name; if a picture is "
    "there twice, take one out",
    "contradictory": "look into catalogue/quarantine.csv and keep the right row",
    "class_horse": "bring photographs of the class from other horses, or fewer of this one",
    "class_session": "bring photographs of the class from other sessions",
    "class_covariate": "bring photographs of the class with other values, or take the class out; "
    "if the column only says the label in other words, take it out of the table",
    "few_horses": "write `split.outer: kfold` or `leave_one_horse_out`, in which every horse is "
    "tested once",
    "metadata": "find out which column it is, and photograph the classes alike in it",
    "picture_facts": "take the classes' photographs with one camera, in one light, or crop them "
    "alike",
    "background": "look at what goes with the classes around the horse, and crop it away (a view "
    "with a box) or photograph the classes in the same places",
    "context": "photograph the class without it and the others with it, or crop it away",
}


@dataclass(frozen=True)
class Finding:
    """What one check found.

    value : compared with the check's threshold; None where it cannot be judged.
    found : the same in words.
    examples : words, with paths and names of the user's tables.
    """

    check: str
    value: float | None
    found: str
    examples: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Judged:
    """A finding with what follows: ``verdict`` is passed, warned, accepted, refused, not judged."""

    finding: Finding
    threshold: float | None
    verdict: str
    reason: str | None = None


# ------------------------------------------------------------------------------- of the splits


def of_splits(
    images: pd.DataFrame,
    splits: pd.DataFrame,
    near_duplicates: pd.DataFrame,
    covariates: pd.DataFrame,
    quarantine: pd.DataFrame,
    outer: str,
) -> list[Finding]:
    """Look for what stands on both sides of a fold, and for classes carried by one of anything.

    Parameters
    ----------
    images, splits, near_duplicates, quarantine : as in tables; no horse is on both sides of a fold.
    covariates : photo_id, then columns of text.
    outer : settings.Split.outer.
    """
    photos = images.drop_duplicates("photo_id").merge(covariates, on="photo_id", how="left",
                                                      suffixes=("", " (yours)"))  # fmt: skip
    given = [str(name) for name in photos if name not in images.columns]
    n_horses = photos["horse"].nunique()
    held_out = outer == "holdout"
    return [
        Finding("shared_horse", 0, f"none of {n_horses} horses"),
        _shared("shared_session", "session", photos, splits),
        _shared("shared_video", "video", photos, splits),
        _near(photos, splits, near_duplicates),
        _contradictory(quarantine),
        _carried("class_horse", "horse", photos),
        _carried("class_session", "session", photos),
        _carried_by_a_value(photos, given),
        Finding(
            "few_horses",
            n_horses if held_out else None,
            f"{n_horses} horses, one hold-out" if held_out else "every horse is tested once",
        ),
    ]


def _sides(splits: pd.DataFrame) -> dict[str, pd.Series]:
    """Per outer fold, the inner fold of each horse: -1 where it is tested."""
    outer = splits[splits["fold"] != FINAL]
    return {
        str(fold): rows.set_index("horse")["inner_fold"]
        for fold, rows in outer.groupby("fold", sort=False)
    }


def _shared(check: str, column: str, photos: pd.DataFrame, splits: pd.DataFrame) -> Finding:
    """Count values of a column with horses on both sides of an outer fold."""
    pairs = photos[["horse", column]].dropna().drop_duplicates()
    if pairs.empty:
        return Finding(check, None, f"the table names no {column}")
    n_values = pairs[column].nunique()
    of_several = pairs[pairs.duplicated(column, keep=False)].sort_values([column, "horse"])
    across: set[str] = set()
    inside: set[str] = set()
    examples: list[str] = []
    for fold, inner in _sides(splits).items():
        place = of_several["horse"].map(inner)
        tested = (place == -1).groupby(of_several[column]).nunique()
        both = tested.index[tested > 1]
        for value in sorted(set(both) - across):
            rows = of_several[column] == value
            trained = ", ".join(of_several.loc[rows & (place != -1), "horse"].head(3))
            held = ", ".join(of_several.loc[rows & (place == -1), "horse"].head(3))
            examples.append(f"{column} {value}: in fold {fold} {trained} train, {held} tested")
        across |= set(both)
        among = place[place != -1].groupby(of_several[column]).nunique()
        inside |= set(among.index[among > 1])
    found = f"{len(across)} of {n_values} {column}s"
    if across:
        n_horses = pairs.groupby(column)["horse"].nunique()
        if n_horses.median() > pairs["horse"].nunique() / 2:
            found += (
                f" (they look numbered anew for each horse: {n_horses.idxmax()!r} is a {column} "
                f"of {n_horses.max()} of {pairs['horse'].nunique()} horses)"
            )
    if inside - across:
        found += (
            f"; {len(inside - across)} more between inner folds alone, where the search chooses"
        )
    return Finding(check, len(across), found, examples[:EXAMPLES])


def _near(photos: pd.DataFrame, splits: pd.DataFrame, pairs: pd.DataFrame) -> Finding:
    across = np.zeros(len(pairs), bool)
    inside = np.zeros(len(pairs), bool)
    for inner in _sides(splits).values():
        one, other = (pairs[name].map(inner).to_numpy(float) for name in ("horse_a", "horse_b"))
        across |= (one == -1) != (other == -1)
        inside |= (one != other) & (one != -1) & (other != -1)
    by_id = photos.set_index("photo_id")
    examples = []
    shown: Any = pairs[across].head(EXAMPLES).itertuples(index=False)
    for row in shown:
        a, b = (by_id.loc[photo] for photo in (row.image_a, row.image_b))
        labels = "" if a["label"] == b["label"] else f", labels {a['label']} and {b['label']}"
        examples.append(
            f"{a['path']} ({row.horse_a}) and {b['path']} ({row.horse_b}): {row.bits} of 64 bits "
            f"differ{labels}"
        )
    found = f"{across.sum()} pairs of pictures of two horses"
    if only := int((inside & ~across).sum()):
        found += f"; {only} more between inner folds alone"
    return Finding("near_duplicates", int(across.sum()), found, examples)


def _contradictory(quarantine: pd.DataFrame) -> Finding:
    reason = quarantine["reason"].astype("str").str
    rows = quarantine[reason.startswith("contradictory: another")]
    examples = [f"{row.image} ({row.horse}): {row.reason}" for row in rows.itertuples(index=False)]
    return Finding("contradictory", len(rows), f"{len(rows)} rows left out", examples[:EXAMPLES])


def _carried(check: str, column: str, photos: pd.DataFrame) -> Finding:
    """The largest share of a class's photographs that come from one horse or session."""
    known = photos.dropna(subset=column)
    if known[column].nunique() < 2:
        return Finding(check, None, f"the table names no two {column}s")
    share, label, value = _largest(known, column)
    found = f"{share:.0%} of the photographs of {label} are of {column} {value}"
    return Finding(check, share, found)


def _largest(photos: pd.DataFrame, column: str) -> tuple[float, str, str]:
    shares = photos.groupby("label")[column].value_counts(normalize=True).reset_index()
    label, value, share = shares.iloc[int(shares["proportion"].argmax())]
    return float(share), str(label), str(value)


def _carried_by_a_value(photos: pd.DataFrame, columns: Iterable[str]) -> Finding:
    """The largest share of a class with one value of a column that others have otherwise."""
    rows = []
    for column in columns:
        known = photos.dropna(subset=column)
        for label, own in known.groupby("label"):
            others = known.loc[known["label"] != label, column]
            value = own[column].mode().iloc[0]
            elsewhere = float((others == value).mean()) if len(others) else 1.0
            # What most of the others have, too, is how the study is, not how the class is.
            if elsewhere <= MOST_OTHERS:
                share = float((own[column] == value).sum() / (photos["label"] == label).sum())
                rows.append((share, column, str(label), str(value), elsewhere))
    if not rows:
        return Finding("class_covariate", None, "the table has no other column that tells classes")
    rows.sort(key=lambda row: (-row[0], row[1:]))
    told = [
        f"{column} is {value} in {share:.0%} of the photographs of {label}, in {elsewhere:.0%} of "
        "the others"
        for share, column, label, value, elsewhere in rows[:EXAMPLES]
    ]
    return Finding("class_covariate", rows[0][0], told[0], told[1:])


# -------------------------------------------------------------------------- what follows from it


def judge(findings: Iterable[Finding], audit: settings.Audit) -> list[Judged]:
    """Compare each finding with its check's threshold."""
    judged = []
    for finding in findings:
        check = getattr(audit, finding.check, None)
        if check is None:  # a horse on both sides is refused by splits.audit
            judged.append(Judged(finding, 0, "passed"))
            continue
        value, threshold = finding.value, check.threshold
        if value is None:
            judged.append(Judged(finding, threshold, "not judged"))
            continue
        over = value < threshold if finding.check == "few_horses" else value > threshold
        if not over:
            judged.append(Judged(finding, threshold, "passed"))
            continue
        verdict = {"refuse": "refused", "warn": "warned", "accept": "accepted"}[check.action]
        judged.append(Judged(finding, threshold, verdict, check.reason))
    return judged


def refuse(judged: Sequence[Judged], page: Path) -> None:
    """Raise a UserError that names everything refused, what to do, and how to accept it.

    The page of what was found is then left at ``page``, and taken away once nothing is refused.
    """
    told = []
    for each in judged:
        if each.verdict != "refused":
            continue
        check = each.finding.check
        title = ABOUT[check][0]
        examples = "".join(f"\n    {example}" for example in each.finding.examples[:3])
        told.append(
            f"audit.{check}: {title[0].lower()}{title[1:]}: {each.finding.found} (allowed: "
            f"{each.threshold:g}).{examples}\n  {REMEDIES[check][0].upper()}{REMEDIES[check][1:]}. "
            "If you have looked at it and it is no leak, write why:\n"
            f'    audit:\n      {check}: {{action: accept, reason: "…"}}'
        )
    page.unlink(missing_ok=True)
    if told:
        write_text(page, as_html(judged))
        raise UserError("\n".join([*told, f"All checks: {page}"]))


def warn(judged: Iterable[Judged]) -> None:
    """Tell the log of every warning."""
    for each in judged:
        if each.verdict == "warned":
            log.warning("audit.%s: %s", each.finding.check, each.finding.found)


def as_json(judged: Iterable[Judged]) -> list[dict[str, Any]]:
    """Lay out for audit.json: check, title, found, value, threshold, verdict, reason, examples."""
    return [
        {
            "check": each.finding.check,
            "title": ABOUT[each.finding.check][0],
            **{k: v for k, v in asdict(each.finding).items() if k != "check"},
            "threshold": each.threshold,
            "verdict": each.verdict,
            "reason": each.reason,
        }
        for each in judged
    ]


def as_findings(content: Iterable[Mapping[str, Any]]) -> list[Finding]:
    """Read findings back from JSON."""
    return [
        Finding(each["check"], each["value"], each["found"], list(each["examples"]))
        for each in content
    ]


_PAGE = jinja2.Environment(autoescape=True).from_string("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>Audit of the data</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem; max-width: 70rem; color: #222; }
table { border-collapse: collapse; width: 100%; }
th, td { padding: .5rem .8rem; text-align: left; vertical-align: top;
  border-bottom: 1px solid #ddd; }
th:nth-child(3), td:nth-child(3) { text-align: right; font-variant-numeric: tabular-nums; }
td:first-child { width: 32%; }
.why, li { color: #555; font-size: .88em; }
ul { margin: .3rem 0 0; padding-left: 1.1rem; overflow-wrap: anywhere; }
.verdict { white-space: nowrap; font-weight: 600; }
.passed { color: #00695c; } .warned, .refused { color: #b23c00; } .accepted { color: #6a4c93; }
.not { color: #777; font-weight: 400; }
</style>
</head>
<body>
<h1>Audit of the data</h1>
<p>{{ summary }}</p>
<table>
<thead><tr><th>looked for</th><th>found</th><th>allowed</th><th>verdict</th></tr></thead>
<tbody>
{% for row in rows %}<tr>
<td>{{ row.title }}<div class="why">{{ row.why }}</div></td>
<td>{{ row.found }}{% if row.examples %}<ul>{% for example in row.examples %}
<li>{{ example }}</li>{% endfor %}</ul>{% endif %}{% if row.remedy %}
<div class="why">What to do: {{ row.remedy }}.</div>{% endif %}</td>
<td>{{ row.allowed }}</td>
<td><span class="verdict {{ row.verdict.split()[0] }}">{{ row.verdict }}</span>{% if row.reason %}
<div class="why">because &ldquo;{{ row.reason }}&rdquo;</div>{% endif %}</td>
</tr>
{% endfor %}</tbody>
</table>
</body>
</html>
""")


def as_html(judged: Sequence[Judged]) -> str:
    """Return the audit as a page of its own, text from tables escaped."""
    counts = pd.Series([each.verdict for each in judged]).value_counts()
    order = ("refused", "warned", "accepted", "passed", "not judged")
    words = ", ".join(f"{counts[name]} {name}" for name in order if name in counts)
    rows = []
    for each in judged:
        check = each.finding.check
        title, why = ABOUT[check]
        over = each.verdict in ("refused", "warned")
        rows.append({
            "title": title, "why": why, "found": each.finding.found,
            "examples": each.finding.examples, "allowed": _allowed(check, each.threshold),
            "verdict": each.verdict, "reason": each.reason,
            "remedy": REMEDIES[check] if over else None,
        })  # fmt: skip
    return _PAGE.render(summary=f"{len(rows)} checks: {words}.", rows=rows)


def _allowed(check: str, threshold: float | None) -> str:
    if check in ("metadata", "picture_facts", "background"):
        more = f" + {threshold:g}" if threshold else ""
        boxes = ", or what place and size of the hidden boxes tell" if check == "background" else ""
        return f"interval reaches chance{more}{boxes}"
    if check == "few_horses":
        return f"at least {threshold:g}"
    if check == "context":
        return f"difference up to {threshold or 0:.0%}"
    if check.startswith("class_"):
        return f"up to {threshold or 0:.0%}"
    return f"up to {threshold:g}"
