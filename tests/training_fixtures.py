"""Fixtures of trainings: a cache of the teacher's samples that all tests of a file share, never the user's."""

from pathlib import Path

import pytest

from nitro_lab.training import data


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module", autouse=True)
def private_cache(cache: Path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "user_cache_path", lambda name: cache)
        yield
