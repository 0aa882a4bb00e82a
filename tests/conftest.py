"""What all tests share."""

import os
import shutil
from collections.abc import Callable

import pytest


@pytest.fixture(scope="session")
def program() -> Callable[[str, str], str]:
    """Find a program that Python does not bring; without it skip, or fail where none may lack."""

    def find(name: str, source: str) -> str:
        if path := shutil.which(name):
            return path
        reason = f"{name} is not installed ({source})"
        pytest.fail(reason) if os.environ.get("EQUIMOOD_NO_SKIP") else pytest.skip(reason)

    return find
