import numpy as np
import pandas as pd
import pytest
from equimood import audit, audit_evidence, splits, tables
from equimood.audit import Finding
from equimood.controls import Evidence
from equimood.errors import UserError
from equimood.settings import Audit, Split
from splits_of import herd_of_photographs

CLASSES = ["calm", "tense"]
NO_PAIRS = tables.NEAR_DUPLICATES.empty_table().to_pandas()
NO_REFUSALS = pd.DataFrame(columns=tables.QUARANTINE)
BOOTSTRAP = {"n_bootstrap": 400, "confidence": 0.95, "seed": 1}


def check(photos, *, pairs=NO_PAIRS, quarantine=NO_REFUSALS, outer="kfold", **columns):
    """Findings about splits of these photographs, by check."""
    covariates = pd.DataFrame({"photo_id": photos["photo_id"]} | columns)
    split = Split(outer=outer, n_splits=3, inner_splits=2, test_share=0.34)
    folds = splits.split(photos.assign(fold=None), split, seed=1)
    found = audit.of_splits(photos, folds, pairs, covariates.astype("str"), quarantine, outer)
    return {finding.check: finding for finding in found}


def verdicts(found, **changes):
    judged = audit.judge(found.values(), Audit(**changes))
    return {each.finding.check: each.verdict for each in judged}


@pytest.fixture(scope="module")
def photos():
    return herd_of_photographs(9, 8, CLASSES)


def test_a_clean_study_passes_every_check(photos):
    found = check(photos, site=np.where(np.arange(len(photos)) % 3, "yard", "field"))
    assert set(verdicts(found).values()) == {"passed", "not judged"}
    assert set(found) | {"metadata", "picture_facts", "background", "context"} == set(audit.ABOUT)
    assert set(audit.REMEDIES) == set(Audit.model_fields)


def test_a_session_of_two_horses_is_refused_where_a_fold_parts_them(photos):
    barn = photos.assign(session=photos["session"].mask(photos["horse"].isin(["h00", "h01"]), "b"))
    folds = splits.split(barn.assign(fold=None), Split(n_splits=3, inner_splits=2), seed=1)
    tested = folds[folds["role"] == "test"].set_index("horse")["fold"]
    parted = tested["h00"] != tested["h01"]
    assert parted  # else choose other horses above: this test is about a session that is torn
    found = check(barn)["shared_session"]
    assert found.value == 1 and found.found.startswith("1 of 15 sessions")
    assert any("session b: in fold" in example for example in found.examples)
    assert verdicts({"x": found}) == {"shared_session": "refused"}


def test_sessions_numbered_within_horses_are_told_as_such(photos, tmp_path):
    found = check(photos.assign(session=photos["session"].str[-1]))["shared_session"]
    assert found.value == 2
    assert "look numbered anew for each horse: '0' is a session of 9 of 9 horses" in found.found
    with pytest.raises(UserError) as told:
        audit.refuse(audit.judge([found], Audit()), tmp_path / "refused.html")
    assert "write the horse into their names" in str(told.value)
    assert 'shared_session: {action: accept, reason: "…"}' in str(told.value)


def test_near_duplicates_count_where_a_fold_parts_them(photos):
    folds = splits.split(photos.assign(fold=None), Split(n_splits=3, inner_splits=2), seed=1)
    fold = folds[folds["role"] == "test"].set_index("horse")["fold"]
    apart = next(h for h in fold.index if fold[h] != fold["h00"])
    together = next(h for h in fold.index if h != "h00" and fold[h] == fold["h00"])
    pairs = pd.DataFrame(
        {"image_a": ["00-000", "00-000"], "image_b": [f"{apart[1:]}-001", f"{together[1:]}-000"],
         "horse_a": "h00", "horse_b": [apart, together], "bits": [2, 0]}
    )  # fmt: skip
    found = check(photos, pairs=pairs)["near_duplicates"]
    assert found.value == 1
    assert "h00/0.jpg (h00)" in found.examples[0] and "labels calm and tense" in found.examples[0]
    assert "1 more between inner folds alone" in found.found or ";" not in found.found


def test_a_class_of_one_site_is_refused_and_a_column_all_share_is_not(photos):
    tense = photos["label"] == "tense"
    alternate = np.where(np.arange(len(photos)) % 4 < 2, "yard", "field")
    only = check(photos, site=np.where(tense, "clinic", alternate))["class_covariate"]
    assert only.found == ("site is clinic in 100% of the photographs of tense, in 0% of the others")
    assert verdicts({"x": only}) == {"class_covariate": "refused"}
    rare = check(photos, site=np.where(~tense & (np.arange(len(photos)) % 12 == 0), "x", "yard"))
    assert verdicts({"x": rare["class_covariate"]}) != {"class_covariate": "refused"}
    same = check(photos, site="yard")["class_covariate"]
    assert same.value is None


def test_a_class_carried_by_one_horse_warns(photos):
    tense = photos["label"] == "tense"
    own = photos[~tense | (photos["horse"] == "h00") | photos["photo_id"].str.endswith("1")]
    more = pd.concat(
        [own, photos[photos["horse"] == "h00"].assign(
            photo_id=lambda f: f["photo_id"] + "x", label="tense")], ignore_index=True,
    )  # fmt: skip
    found = check(more)["class_horse"]
    assert "of the photographs of tense are of horse h00" in found.found
    assert verdicts({"x": found}) == {"class_horse": "warned"}


def test_one_hold_out_of_few_horses_warns(photos):
    found = check(photos, outer="holdout")["few_horses"]
    assert found.value == 9 and verdicts({"x": found}) == {"few_horses": "warned"}
    assert verdicts({"x": found}, few_horses={"threshold": 5}) == {"few_horses": "passed"}


def test_contradictory_copies_are_told_with_their_names(photos):
    quarantine = pd.DataFrame(
        [(3, "a.jpg", "h00", None, "contradictory: another label with the bytes of b.jpg", "x"),
         (4, "c.jpg", "h00", None, "missing", "x")], columns=tables.QUARANTINE,
    )  # fmt: skip
    found = check(photos, quarantine=quarantine)["contradictory"]
    assert found.value == 1 and "a.jpg (h00)" in found.examples[0]


def evidence(photos, told, seed=1):
    rng = np.random.default_rng(seed)
    tense = (photos["label"] == "tense").to_numpy(float)
    table = pd.DataFrame({"light": told * tense + rng.normal(0, 0.3, len(photos))})
    return Evidence(np.ones(len(photos), bool), table=table)


def test_labels_told_from_metadata_warn_and_noise_does_not():
    photos = herd_of_photographs(12, 12, CLASSES)
    folds = splits.split(photos.assign(fold=None), Split(n_splits=3, inner_splits=2), seed=1)
    known = {"metadata": evidence(photos, 1), "picture_facts": evidence(photos, 0),
             "background": None}  # fmt: skip
    found = audit_evidence.of_evidence(known, photos, folds, CLASSES, 1, **BOOTSTRAP)
    by_check = {finding.check: finding for finding in found}
    assert by_check["metadata"].value > 0.2
    assert "chance 0.50" in by_check["metadata"].found
    assert verdicts(by_check) == {
        "metadata": "warned", "picture_facts": "passed", "background": "not judged"
    }  # fmt: skip
    assert "no box of the horse" in by_check["background"].found


def test_an_object_that_goes_with_a_class_is_named_with_its_rates():
    photos = herd_of_photographs(12, 12, CLASSES)
    rng = np.random.default_rng(1)
    tense = photos["label"] == "tense"
    seen = np.where(tense, rng.random(len(photos)) < 0.9, rng.random(len(photos)) < 0.05)
    tack = rng.random(len(photos)) < 0.3
    rows = [photos.assign(region=region, visible=shown)
            for region, shown in (("object", seen), ("tack", tack))]  # fmt: skip
    regions = pd.concat(rows).rename(columns={"path": "image"})
    found = audit_evidence.of_context(photos, regions, **BOOTSTRAP)
    inside, outside = seen[tense].mean(), seen[~tense].mean()
    assert found.found in (
        f"object: in {inside:.0%} of the photographs of tense, in {outside:.0%} of the others",
        f"object: in {outside:.0%} of the photographs of calm, in {inside:.0%} of the others",
    )
    assert found.value == pytest.approx(inside - outside)
    assert not any("tack" in words for words in found.examples)
    nothing = audit_evidence.of_context(photos, regions.iloc[:0], **BOOTSTRAP)
    assert nothing.value is None and nothing.found == "no table of regions"


def test_a_refusal_says_what_was_found_what_to_do_and_how_to_accept_it(tmp_path):
    findings = [
        Finding("near_duplicates", 3, "3 pairs", ["a.jpg (x) and b.jpg (y): 1 of 64 bits differ"]),
        Finding("shared_session", 0, "0 of 3 sessions"),
    ]
    page = tmp_path / "audit/refused.html"
    with pytest.raises(UserError) as told:
        audit.refuse(audit.judge(findings, Audit()), page)
    for part in ("audit.near_duplicates", "3 pairs", "allowed: 0", "a.jpg (x)", "look at the pict",
                 'near_duplicates: {action: accept, reason: "…"}', str(page)):  # fmt: skip
        assert part.lower() in str(told.value).lower()
    assert "shared_session" not in str(told.value)
    assert "3 pairs" in page.read_text()
    reason = "Two grey horses; we looked at each pair."
    accepted = Audit(near_duplicates={"action": "accept", "reason": reason})
    judged = audit.judge(findings, accepted)
    audit.refuse(judged, page)
    assert not page.exists()
    assert [each.verdict for each in judged] == ["accepted", "passed"]
    assert f"&ldquo;{reason}&rdquo;" in audit.as_html(judged)


def test_text_of_tables_is_escaped_on_the_page():
    findings = [Finding("near_duplicates", 1, "1 pair", ["<script>x</script>.jpg"])]
    page = audit.as_html(audit.judge(findings, Audit()))
    assert "<script>" not in page and "&lt;script&gt;x" in page


def test_findings_survive_json():
    findings = [Finding("background", 0.1, "balanced accuracy 0.4", ["x"]),
                Finding("context", None, "no table of regions")]  # fmt: skip
    assert audit.as_findings(audit.as_json(audit.judge(findings, Audit()))) == findings


@pytest.mark.parametrize(
    ("check", "told"),
    [
        ({"action": "accept"}, "`action: accept` needs a `reason`"),
        ({"action": "warn", "reason": "because"}, "needs a `reason`, in your words, and no other"),
        ({"reason": "because"}, "needs a `reason`"),
    ],
)
def test_accept_needs_a_reason_and_nothing_else_has_one(check, told):
    with pytest.raises(ValueError, match=told):
        Audit(shared_session=check)


def test_a_threshold_alone_keeps_the_checks_own_action():
    assert Audit(near_duplicates={"threshold": 3}).near_duplicates.action == "refuse"
    assert Audit(context={"action": "refuse"}).context.threshold == 0.3
