"""Files that appear whole or not at all, digests, and folders for progress that outlives a kill."""

import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError

STATE = Path("state")
NAME_BYTES = 150
ASIDE = r"^\..+\.[0-9a-f]{8}$"  # names of files that are being written
ATTRIBUTED_PACKAGES = ("torch", "torchvision", "timm", "ray", "captum", "scikit-learn", "snakemake")


@contextmanager
def written_whole(path: str | Path) -> Iterator[Path]:
    """Yield a name beside ``path`` to write to; rename it to ``path`` when the block ends well.

    Whatever library meets a full or read-only disk, an OSError with its number and ``path`` is
    raised.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")  # as ASIDE has it
    try:
        yield aside
        with aside.open("rb") as written:
            os.fsync(written.fileno())
        aside.replace(path)
    except (OSError, SafetensorError) as error:
        told = re.search(r"os error (\d+)", str(error))
        number = int(told[1]) if told else getattr(error, "errno", None)
        if number is None:
            raise
        raise OSError(number, os.strerror(number), str(path)) from error
    finally:
        aside.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 text whole."""
    with written_whole(path) as aside:
        aside.write_text(text, encoding="utf-8")


def write_json(path: str | Path, content: Any) -> None:
    """Write indented JSON whole."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def read_json(path: str | Path) -> Any:
    """Read a JSON file."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def write_yaml(path: str | Path, content: Any) -> None:
    """Write YAML whole, keys in the order given."""
    write_text(path, yaml.safe_dump(content, sort_keys=False, allow_unicode=True))


def read_yaml(path: str | Path) -> Any:
    """Read a YAML file."""
    return yaml.safe_load(Path(path).read_text(encoding="utf-8"))


def as_file_name(text: str) -> str:
    """Turn text of a user's table into a file name: anything but letters, digits, . _ - is _.

    Disks take 255 bytes: a longer name is cut, and a digest tells it from others.
    """
    name = re.sub(r"[^\w.-]", "_", text).encode()
    if len(name) > NAME_BYTES:
        name = name[: NAME_BYTES - 9] + f"-{digest(text, length=8)}".encode()
    return name.decode(errors="ignore")


def distinct_file_names(texts: Sequence[str]) -> list[str]:
    """File names of different texts: a digest tells apart those that would be the same."""
    names = [as_file_name(text) for text in texts]
    return [
        f"{name}-{digest(text, length=8)}" if names.count(name) > 1 else name
        for name, text in zip(names, texts, strict=True)
    ]


def digest(*content: Any, length: int = 32) -> str:
    """Hexadecimal sha256 of JSON-able values, the same on every machine and in every run."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def state_folder(kind: str, key: str, record: str | Path) -> Path:
    """Folder for progress that must outlive a kill, private to the user and shared by studies.

    Parameters
    ----------
    kind : what is kept: ``features``, ``search`` …
    key : digest of everything that would make the content stale.
    record : folder of the study in which this use is noted, so that ``make prune`` keeps it.
    """
    folder = STATE / kind / key
    STATE.mkdir(mode=0o700, exist_ok=True)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_text(Path(record) / f"{kind}-{key}", "")
    return folder


def new_record(folder: str | Path) -> Path:
    """Empty the folder in which a job notes the state it uses: what it used before is forgotten."""
    folder = Path(folder)
    shutil.rmtree(folder, ignore_errors=True)
    return folder


def provenance() -> dict[str, Any]:
    """Say from what a result is made: time, commit, machine type and package versions."""
    git = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": git.stdout.strip() or None,
        "machine": platform.machine(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in ATTRIBUTED_PACKAGES},
    }
