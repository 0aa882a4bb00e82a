import json

import pytest
import yaml
from equimood import reference, settings
from pydantic import BaseModel


@pytest.mark.parametrize("name", reference.files())
def test_the_generated_files_have_not_drifted_from_the_models(name):
    path = reference.ROOT / name
    assert path.read_text(encoding="utf-8") == reference.files()[name], "run `make reference`"


def test_check_exits_1_and_says_what_drifted(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(reference, "ROOT", tmp_path)
    assert reference.main(["--check"]) == 1
    assert "config.yaml: differs" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())
    assert reference.main([]) == 0
    assert reference.main(["--check"]) == 0
    config = tmp_path / "config.yaml"
    config.write_text(config.read_text().replace("horses: 24", "horses: 25"))
    assert reference.main(["--check"]) == 1
    assert "-  horses: 25\n+  horses: 24" in capsys.readouterr().out


def sections():
    found = [settings.Settings]
    for model in found:
        for field in model.model_fields.values():
            inner = reference._models(field.annotation)
            # a check of the audit is one line, explained by its section
            found += [m for m in inner if m not in found and m is not settings.Check]
    return found


@pytest.mark.parametrize("model", sections(), ids=lambda model: model.__name__)
def test_every_field_is_described(model: type[BaseModel]):
    for name in model.model_fields:
        assert reference._description(model, name).endswith("."), f"{model.__name__}.{name}"


def test_the_written_config_means_the_demo_study():
    written = yaml.safe_load(reference.config(reference.DEMO))
    assert settings.load(written) == settings.load(reference.DEMO)


def test_the_written_config_has_every_key_and_comments_each():
    text = reference.config(reference.DEMO)
    study = settings.load(reference.DEMO)
    assert yaml.safe_load(text) == study.model_dump(mode="json")
    assert text.startswith("# yaml-language-server: $schema=workflow/schemas/config.schema.json\n")
    assert max(map(len, text.splitlines())) <= 100
    lines = text.splitlines()
    second_view = lines.index("  head:")
    named = {"  whole:", "  head:", "  drawn:"}  # names of the user's, explained by their section
    for number, line in enumerate(lines):
        if not line or line.lstrip().startswith("#") or line in named:
            continue
        if second_view < number < second_view + 5:  # explained in the first view
            continue
        assert lines[number - 1].lstrip().startswith("#") or lines[number - 1] in named, line


def test_a_limit_is_told_unless_the_description_tells_it():
    text = reference.config(reference.DEMO)
    assert "# Number of outer folds with `kfold`. [2 to 50]\n" in text
    assert "[squash | pad | crop]" not in text
    assert "[holdout | kfold | leave_one_horse_out | column]" in text


def test_the_schema_refuses_unknown_keys_and_knows_every_section():
    schema = json.loads(reference.files()[reference.SCHEMA])
    assert schema["additionalProperties"] is False
    assert all(part["additionalProperties"] is False for part in schema["$defs"].values())
    assert set(schema["properties"]) == set(settings.Settings.model_fields)


def test_the_docs_have_a_row_for_every_key_of_every_section():
    docs = reference.docs()
    for model in sections():
        for name in model.model_fields:
            if reference._section_of(model, name) is None:
                assert f"| `{name}` |" in docs
    rows = [line for line in docs.splitlines() if line.startswith("| `")]
    assert all(line.replace("\\|", "").count("|") == 5 for line in rows)
