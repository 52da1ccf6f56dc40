"""Fixtures of the evaluation tests."""

import pytest
from made_up import made_up_predictions


@pytest.fixture(scope="session")
def predictions():
    return {"vim": made_up_predictions(1.5, seed=1), "fcn_resnet": made_up_predictions(0.5, seed=2)}
