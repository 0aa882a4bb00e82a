"""docs/tutorial.md is true: its commands run as they stand there and print what it says.

The fenced blocks of the page are taken in order:

- ``yaml`` is written to the file that its first line names in a comment.
- ``sh`` is run by bash in a clone of the project, in which `.venv` is the environment of this
  test. It must succeed, unless the output told for it has the word Error.
- ``text`` tells lines of the output of the commands above it, in that order; others may stand
  between them. ``…`` stands for anything, a number with a point for any number (its digits differ
  between machines), and the width of a space does not count.

Indented commands (the installation) are for the reader alone. At last, every file of the study
that the page names must be there.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

TUTORIAL = Path(__file__).parents[2] / "docs/tutorial.md"
BLOCK = re.compile(r"^```(sh|yaml|text)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
TOKEN = r"(…|-?\d+\.\d+|\bNaN\b|\s+)"
NUMBER = r"(-?\d+(\.\d+)?|NaN)"


def as_pattern(told: str) -> re.Pattern:
    def pattern(token: str) -> str:
        return ".*" if token == "…" else r"\s+" if token.isspace() else NUMBER

    texts_and_tokens = re.split(TOKEN, told.strip())  # in turn
    return re.compile("".join(
        pattern(part) if i % 2 else re.escape(part) for i, part in enumerate(texts_and_tokens)
    ))  # fmt: skip


def not_printed(told: str, output: str) -> list[str]:
    """The lines told that do not stand in the output, each below the one before it."""
    printed = iter(line.strip() for line in output.splitlines())
    return [
        line for line in told.splitlines()
        if line.strip() and not any(map(as_pattern(line).fullmatch, printed))
    ]  # fmt: skip


def run(command: str, folder: Path) -> tuple[int, str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command], cwd=folder, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=1200, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout


def test_the_tutorial_does_what_it_says(clone):
    (clone.folder / ".venv").symlink_to(sys.prefix)
    page = TUTORIAL.read_text()
    blocks = BLOCK.findall(page)
    for (kind, content), (following, told) in zip(blocks, [*blocks[1:], ("", "")], strict=True):
        if kind == "yaml":
            name = content.split("\n", 1)[0].removeprefix("# ")
            (clone.folder / name).write_text(content)
        elif kind == "sh":
            told = told if following == "text" else ""
            code, output = run(content, clone.folder)
            assert (code != 0) == ("Error" in told), f"{content}\nended with {code}:\n{output}"
            missing = not_printed(told, output)
            assert not missing, f"{content}\ndid not print {missing}:\n{output}"
    named = re.findall(r"`(results/mystudy/[^`\s]*)`", page)
    assert len(named) > 5
    assert [name for name in named if not (clone.folder / name).exists()] == []


@pytest.mark.parametrize(
    ("told", "output", "missing"),
    [
        ("total   5", "noise\ntotal 5\n", []),
        ("a\nb", "b\na\n", ["b"]),
        ("… INFO 1 of 81 images", "03:55:03 INFO 11 of 81 images", ["… INFO 1 of 81 images"]),
        ("eyes 24.6 NaN", "  eyes  3.0   1.5", []),
        ("eyes 24.6", "eyes many", ["eyes 24.6"]),
        ("total 5", "total 5 jobs", ["total 5"]),
    ],
)
def test_a_line_that_was_not_printed_is_found(told, output, missing):
    assert not_printed(told, output) == missing
