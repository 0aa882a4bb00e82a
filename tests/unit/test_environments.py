"""The environments install the same packages, whoever makes them."""

import re

import yaml
from clone import ROOT

ENVS = ROOT / "envs"


def test_conda_and_make_install_the_same_lock():
    post_deploy = (ENVS / "equimood.post-deploy.sh").read_text()
    makefile = (ROOT / "Makefile").read_text()
    assert "--require-hashes --requirement envs/equimood.lock" in post_deploy
    assert "$(VENV)/runtime: envs/equimood.lock" in makefile
    conda = yaml.safe_load((ENVS / "equimood.yaml").read_text())
    assert conda["dependencies"] == ["python=3.11", "pip"]  # nothing that the lock could contradict


def test_every_package_asked_for_is_locked_with_hashes_and_no_address():
    for name in ("equimood", "dev"):
        lock = (ENVS / f"{name}.lock").read_text()
        assert "://" not in lock
        blocks = re.split(r"\n(?=[a-z0-9])", lock.strip())
        assert all("--hash=sha256:" in block for block in blocks)
    locked = re.findall(
        r"^([\w.-]+)(?:\[.*\])?==", (ENVS / "equimood.lock").read_text(), re.MULTILINE
    )
    asked = (ENVS / "requirements.in").read_text().split()
    assert {re.sub(r"\[.*", "", name) for name in asked} <= set(locked)


def test_every_rule_has_the_environment():
    for rules in (ROOT / "workflow/rules").glob("*.smk"):
        text = rules.read_text()
        n_scripts = len(re.findall(r"^ +script:", text, re.MULTILINE))
        assert text.count('"../../envs/equimood.yaml"') == n_scripts, rules.name
