"""The audit: what is planted is named, what leaks is refused, a written reason goes on."""

import pandas as pd
import pytest
import yaml
from equimood import demo


@pytest.fixture(scope="module")
def study(clone):
    """Twelve drawn horses with a bucket beside those that are annoyed."""
    demo.draw_study(
        clone.folder / "mydata", n_horses=12, n_sessions=1, images_per_session=12, seed=5,
        shortcut="bucket", shortcut_class="annoyed",
    )  # fmt: skip
    return clone


def change(study, **sections):
    study.edit("tests/configs/tiny.yaml", lambda config: config.update(sections))


def checks(study):
    content = yaml.safe_load((study.folder / "results/tiny/audit/audit.json").read_text())
    return {check["check"]: check for check in content}


def test_a_bucket_that_goes_with_a_class_is_named(study):
    ran = study.snakemake("audit")
    assert ran.code == 0, ran.text
    found = checks(study)
    assert found["context"]["verdict"] == "warned"
    assert found["context"]["found"].startswith("object: in ")
    assert "of the photographs of annoyed" in found["context"]["found"]
    assert found["background"]["value"] is not None
    quiet = {"shared_horse", "shared_session", "near_duplicates", "class_horse", "contradictory"}
    assert {found[name]["verdict"] for name in quiet} == {"passed"}
    assert "WARNING audit.context: object: in" in ran.text
    page = (study.folder / "results/tiny/audit/audit.html").read_text()
    assert "Tack, people or objects that go with a class" in page


def test_shared_sessions_stop_the_study_until_a_reason_is_written(study):
    path = study.folder / "mydata/annotations.csv"
    table = pd.read_csv(path)
    table.assign(session="1 " + (table.index % 2).astype(str)).to_csv(path, index=False)
    refused = study.snakemake("search")
    assert refused.code != 0
    assert "audit.shared_session: sessions on both sides of a fold: 2 of 2" in refused.text
    assert "look numbered anew for each horse" in refused.text
    assert 'shared_session: {action: accept, reason: "…"}' in refused.text
    assert "Traceback" not in refused.text and not refused.jobs["search_fold"]
    assert (study.folder / "results/tiny/audit/refused.html").exists()

    reason = "Numbered anew for each <horse>."
    change(study, audit={"shared_session": {"action": "accept", "reason": reason}})
    ran = study.snakemake("audit")
    assert ran.code == 0, ran.text
    assert not ran.jobs["embed_shard"]
    assert checks(study)["shared_session"]["verdict"] == "accepted"
    page = (study.folder / "results/tiny/audit/audit.html").read_text()
    assert "Numbered anew for each &lt;horse&gt;." in page
    assert not (study.folder / "results/tiny/audit/refused.html").exists()
