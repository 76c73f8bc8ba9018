from __future__ import annotations

import pytest

from lrbench_hpo.training import ImageData, load_data


@pytest.fixture(scope="session")
def digits() -> ImageData:
    return load_data("digits")
