import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from equimood import logs


@pytest.fixture
def told(caplog):
    caplog.set_level(logging.INFO, logger="equimood")
    return lambda: [record.getMessage() for record in caplog.records]


def test_progress_is_told_at_the_end_and_in_between_no_more_than_asked(told):
    show = logs.progress("images embedded", every_s=1000)
    for done in range(1, 501):
        show(done, 500)
    (line,) = told()
    assert line.startswith("images embedded: 500 of 500 (") and "left" not in line


def test_progress_says_how_much_time_is_left(told, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(logs.time, "monotonic", lambda: now[0])
    show = logs.progress("trials", every_s=10)
    for seconds, done in ((5, 1), (20, 2), (25, 3), (30, 4)):
        now[0] = 100.0 + seconds
        show(done, 800)
    now[0] = 100.0 + 40
    show(800, 800)
    assert told() == [
        "trials: 2 of 800 (0.1/s, 2 h 13 min left)",
        "trials: 4 of 800 (0.133/s, 1 h 39 min left)",
        "trials: 800 of 800 (20/s)",
    ]


def test_nothing_to_do_is_no_division_by_zero(told):
    logs.progress("trials", every_s=0)(0, 0)
    logs.progress("trials", every_s=0)(0, 3)
    assert told() == ["trials: 0 of 0 (0/s)", "trials: 0 of 3 (0/s)"]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0 s"), (59.6, "1 min 00 s"), (61, "1 min 01 s"), (3599.7, "1 h 00 min")],
)
def test_durations_are_rounded_before_they_are_cut_up(seconds, words):
    assert logs._duration(seconds) == words


def failing(tmp_path, statement):
    """What a script that starts its log and fails leaves in the log, and on the terminal."""
    code = f"""
import warnings
from equimood import logs
from equimood.errors import UserError
logs.start("job.log")
logs.log.info("at work")
warnings.warn("a library's warning")
{statement}
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path(logs.__file__).parents[1])},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    log = (tmp_path / "job.log").read_text()
    assert log == done.stderr
    assert "INFO at work" in log and "a library's warning" in log
    return log


def test_a_users_mistake_is_told_without_a_traceback(tmp_path):
    log = failing(tmp_path, 'raise UserError("table.csv, line 3: no horse")')
    assert log.endswith("ERROR table.csv, line 3: no horse\n") and "Traceback" not in log


def test_any_other_error_is_told_with_its_traceback(tmp_path):
    log = failing(tmp_path, '{}["horse"]')
    assert "CRITICAL the job failed" in log and log.endswith("KeyError: 'horse'\n")
