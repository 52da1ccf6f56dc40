"""What the README tells a user to type exists."""

import re
from pathlib import Path

from click.testing import CliRunner

from fakesound.cli.main import main

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def test_every_make_target_that_the_readme_names_exists():
    named = set(re.findall(r"\bmake ([a-z][a-z-]*)\b", README))
    offered = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {"run", "test", "help"} <= named <= offered


def test_every_fakesound_command_that_the_readme_names_exists():
    named = set(re.findall(r"bin/fakesound ([a-z]+)", README))
    assert {"attacks", "detect", "doctor"} <= named
    for command in named:
        assert CliRunner().invoke(main, [command, "--help"]).exit_code == 0


def test_every_path_that_the_readme_maps_exists():
    paths = re.findall(r"`((?:docs|pipelines|requirements)/[^`]+)`", README)
    paths += re.findall(r"^    ([a-z]+/)", README, re.MULTILINE)
    assert paths
    for path in paths:
        assert (ROOT / path).exists(), path
