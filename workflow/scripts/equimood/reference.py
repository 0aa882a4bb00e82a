"""Write what people read about the settings from the models themselves, so that it never drifts.

python -m equimood.reference            writes config.yaml, the schema for editors and the docs
python -m equimood.reference --check    exits 1 and says what differs
"""

import difflib
import json
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, get_args

import yaml
from pydantic import BaseModel

from equimood.files import write_text
from equimood.settings import Check, Settings

DEMO: Final[dict[str, Any]] = {
    "study": "demo",
    "data": {"classes": ["neutral", "annoyed", "relaxed", "alarmed"]},
    "demo": {},
    "views": {
        "whole": {},
        "head": {"box": "regions", "regions": ["head"], "margin": 0.4},
    },
    "backbones": {
        "drawn": {
            "architecture": "resnet10t",
            "weights": "resources/demo/backbone.safetensors",
            "model_args": {"stem_width": 12, "channels": [32, 48, 64, 128], "output_stride": 8},
            "input_px": 160,
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
            "interpolation": "bicubic",
            "poolings": ["avg", "grid2"],
        }
    },
    "ingest": {"shards": 2},
    "search": {"views": [["whole"], ["head"]], "n_heads": 24},
    # What speaks for an emotion is asked against resting horses; a part is explained, for time.
    "explain": {
        "max_images": 140,
        "baseline": "neutral",
        "neutral": "neutral",
        "n_references": 16,
        "n_steps": 48,
        "control_images": 80,
    },
    "explanation_tests": {"n_images": 20},
    # What truly shows each drawn emotion, so that the agreement can be seen where it must be high.
    "ethogram": {"annoyed": ["ears"], "relaxed": ["mouth"], "alarmed": ["eyes"]},
}

ROOT = Path(__file__).resolve().parents[3]
SCHEMA = "workflow/schemas/config.schema.json"
HEADER = f"""\
# yaml-language-server: $schema={SCHEMA}
#
# The demo study: every setting, what it means and, in brackets, its allowed values. For a study of
# your own copy this file, delete the section `demo`, fill in the section `data`, and run it with
#     snakemake --profile profiles/local --configfile my_study.yaml
# The comments come from workflow/scripts/equimood/settings.py; `make reference` writes them.
"""
_HARD_SPACE = "\N{NO-BREAK SPACE}"
DOCS_HEADER = """\
# Configuration

Every setting of a study, section by section. A study is one YAML file; a key left out has the
default below, an unknown key is refused. `config.yaml` is a complete example. A name is made of
letters, digits, `_` and `-`.

<!-- Written by `make reference` from workflow/scripts/equimood/settings.py: edit that. -->
"""


def files() -> dict[str, str]:
    """Return the content of every generated file, by its path in the repository."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    schema |= Settings.model_json_schema()
    return {
        "config.yaml": config(DEMO),
        SCHEMA: json.dumps(schema, indent=2, ensure_ascii=False) + "\n",
        "docs/configuration.md": docs(),
    }


def config(study: dict[str, Any]) -> str:
    """Return a complete, commented configuration with the values of ``study``."""
    values = Settings.model_validate(study).model_dump(mode="json")
    return HEADER + "\n" + "\n".join(_yaml_section(Settings, values, "")) + "\n"


def docs() -> str:
    """Return the reference of all settings as Markdown tables."""
    parts = [DOCS_HEADER]
    for title, model, about in _sections():
        schema = _properties(model)
        rows = [
            f"| `{name}` | {_escaped(_kind(schema[name]))} | {_default(model, name)} "
            f"| {_escaped(_description(model, name))} |"
            for name in model.model_fields
            if _section_of(model, name) is None
        ]
        table = ["| key | values | default | meaning |", "|---|---|---|---|", *rows]
        parts.append("\n".join([f"## {title}", "", about, "", *table]) + "\n")
    return "\n".join(parts)


def main(arguments: list[str]) -> int:
    """Write the files, or check them; return the exit status."""
    drifted = 0
    for name, text in files().items():
        path = ROOT / name
        found = path.read_text(encoding="utf-8") if path.exists() else ""
        if found == text:
            continue
        if "--check" in arguments:
            drifted += 1
            lines = difflib.unified_diff(
                found.splitlines(), text.splitlines(), name, f"{name} after the models", lineterm=""
            )
            print("\n".join(list(lines)[:20]))
            print(f"{name}: differs from the settings' models; run `make reference`")
        else:
            write_text(path, text)
            print(f"{name}: written")
    return 1 if drifted else 0


def _yaml_section(model: type[BaseModel], values: dict[str, Any], indent: str) -> Iterator[str]:
    schema = _properties(model)
    apart = False
    for name in model.model_fields:
        inner, value = _section_of(model, name), values[name]
        apart |= inner is not None
        if apart and not indent:
            yield ""
        yield from _comment(_config_comment(model, name, schema[name]), indent)
        if inner is None or value is None:
            yield f"{indent}{name}: {_inline(value)}"
        elif _is_mapping(model, name):
            yield f"{indent}{name}:"
            for position, (key, entry) in enumerate(value.items()):
                yield f"{indent}  {key}:"
                for line in _yaml_section(inner, entry, indent + "    "):
                    if not position or not line.lstrip().startswith("#"):  # explained once
                        yield line
        else:
            yield f"{indent}{name}:"
            yield from _yaml_section(inner, value, indent + "  ")


def _config_comment(model: type[BaseModel], name: str, schema: dict[str, Any]) -> str:
    """Return the description, with the limits it does not itself name."""
    text, limits = _description(model, name), _limits(schema)
    if not limits or all(word in text for word in limits.split(" | ")):
        return text
    return f"{text} [{limits}]".replace(limits, limits.replace(" ", _HARD_SPACE))


def _comment(text: str, indent: str) -> list[str]:
    prefix = f"{indent}# "
    lines = textwrap.wrap(
        text, 100, initial_indent=prefix, subsequent_indent=prefix, break_on_hyphens=False
    )
    return [line.replace(_HARD_SPACE, " ") for line in lines]


def _inline(value: Any) -> str:
    value = value.model_dump(mode="json") if isinstance(value, Check) else value
    dumped = yaml.safe_dump(
        value, default_flow_style=True, width=10_000, allow_unicode=True, sort_keys=False
    )
    return dumped.removesuffix("...\n").strip()


def _sections() -> Iterator[tuple[str, type[BaseModel], str]]:
    """Yield title, model and introduction of every section, the top level first."""
    yield "Top level", Settings, "Keys that stand in no section."
    for name in Settings.model_fields:
        inner = _section_of(Settings, name)
        if inner is None:
            continue
        about = _flat(inner.__doc__ or "")
        if _is_mapping(Settings, name):
            about = f"{about} As many as you like, each under a name of yours."
        yield name, inner, about


def _section_of(model: type[BaseModel], name: str) -> type[BaseModel] | None:
    """Return the model of a field that is a section, or a mapping of names to sections.

    A check of the audit is written in one line, as a value, and explained once by its section.
    """
    inner = next(_models(model.model_fields[name].annotation), None)
    return None if inner is Check else inner


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models(inner)


def _is_mapping(model: type[BaseModel], name: str) -> bool:
    return str(model.model_fields[name].annotation).startswith("dict")


def _description(model: type[BaseModel], name: str) -> str:
    inner = _section_of(model, name)
    return _flat(model.model_fields[name].description or (inner and inner.__doc__) or "")


def _flat(text: str) -> str:
    return " ".join(text.split())


def _properties(model: type[BaseModel]) -> dict[str, Any]:
    return dict(model.model_json_schema()["properties"])


def _default(model: type[BaseModel], name: str) -> str:
    field = model.model_fields[name]
    return "required" if field.is_required() else f"`{_inline(field.default)}`"


def _kind(schema: dict[str, Any]) -> str:
    """Say in words what a key takes, from its JSON schema."""
    if "$ref" in schema:
        return ", ".join(f"`{name}`" for name in Check.model_fields)
    if "anyOf" in schema:
        kinds = [_kind(option) for option in schema["anyOf"]]
        return ", or ".join(kinds)
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    kind = schema.get("type")
    if kind == "array":
        if "prefixItems" in schema:
            return f"list of {len(schema['prefixItems'])} numbers"
        fewest = schema.get("minItems", 0)
        counted = {0: "list", 1: "non-empty list"}.get(fewest, f"list of at least {fewest}")
        return f"{counted}: {_kind(schema['items'])}"
    if kind == "object":
        return "mapping"
    if "pattern" in schema:
        return "name"
    words = {"string": "text", "boolean": "`true`, `false`", "null": "`null`"}
    limits = _range(schema)
    return words.get(str(kind), str(kind)) + (f", {limits}" if limits else "")


def _limits(schema: dict[str, Any]) -> str:
    """Say which values a key is limited to, where it is: ``2 to 50``, ``linear | mlp``."""
    if "anyOf" in schema:
        return next((limits for option in schema["anyOf"] if (limits := _limits(option))), "")
    if "items" in schema:
        return _limits(schema["items"])
    return " | ".join(schema["enum"]) if "enum" in schema else _range(schema)


def _range(schema: dict[str, Any]) -> str:
    low, high = schema.get("minimum"), schema.get("maximum")
    above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    if low is not None and high is not None:
        return f"{low:g} to {high:g}"
    bounds = {"at least": low, "above": above, "at most": high, "below": below}
    words = [f"{word} {bound:g}" for word, bound in bounds.items() if bound is not None]
    return " and ".join(words)


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace(">", "&gt;")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
