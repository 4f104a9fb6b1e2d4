"""Every malformed input gets a message that fits on a screen, and nothing else happens."""

import shutil
import sys

import pytest
from hostile_configs import CASES as CONFIGS
from hostile_data import CASES as DATA
from hostile_models import CASES as MODELS
from hostile_stages import CASES as STAGES
from hostile_sweeps import CASES as SWEEPS
from hostile_world import accept_without_work, hold_to_promises, make_world

CASES = [*CONFIGS, *DATA, *MODELS, *STAGES, *SWEEPS]


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sound")
    make_world(folder)
    return folder


@pytest.fixture
def folder(world, tmp_path, monkeypatch):
    copy = tmp_path / "world"
    shutil.copytree(world, copy)
    monkeypatch.chdir(copy)
    accept_without_work(monkeypatch)
    monkeypatch.delitem(sys.modules, "config_config", raising=False)  # ml_collections' name for a config file
    return copy


def test_the_corpus_is_as_large_as_promised():
    assert len(CASES) >= 200 and len({case.name for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_malformed_input_is_told_in_one_screen_and_changes_nothing(case, folder):
    hold_to_promises(case, folder)
