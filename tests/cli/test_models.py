"""`fakesound models`: what it measures, and how it says so."""

import json
import subprocess
import sys

import pytest
from click.testing import CliRunner

from fakesound.cli import models as models_module
from fakesound.cli.main import main
from fakesound.core.errors import UserError
from fakesound.models import measure as measure_module
from fakesound.models.budget import count_flops, unallocated
from fakesound.models.config import FCNResNetConfig, VisionMambaConfig, model_presets
from fakesound.models.detector import count_parameters
from fakesound.models.measure import Cost, Speed, measure_apart


def run(*arguments):
    return CliRunner().invoke(main, ["models", *arguments])


@pytest.fixture
def made_up(monkeypatch):
    """Costs that nobody measured; the tiny ViM does not fit in memory."""

    def cost(config, num_mels):
        if config == model_presets()["vim tiny"]:
            raise UserError("killed by signal 9, most often because memory ran out")
        speed = Speed(ms=1234.56, forward_mib=7.4, training_mib=5678.9)
        return Cost(parameters=1_234_567, gflops=0.125, cpu=speed, gpu=None)

    monkeypatch.setattr(measure_module, "measure_apart", cost)


def test_a_child_process_measures_time_and_memory_of_the_model_alone():
    config = VisionMambaConfig(embed_dim=384, depth=2, patch_mels=32, patch_frames=40)
    cost = measure_apart(config, 32)
    weights_mib = 4 * cost.parameters / 2**20
    assert cost.parameters == count_parameters(unallocated(config, 32)) > 2e6
    assert cost.gflops == count_flops(config, 32) / 1e9
    assert 0 < cost.cpu.ms < 60_000
    assert 0.9 * weights_mib < cost.cpu.forward_mib < 3 * weights_mib  # and not all that was imported
    # Weights, gradients and two moments.
    assert 3.6 * weights_mib < cost.cpu.training_mib < 12 * weights_mib


def test_a_child_that_is_killed_or_fails_is_told_in_a_line(monkeypatch):
    def ended(code):
        return lambda *args, **options: subprocess.CompletedProcess(
            args, code, "", "Traceback:\n  a line\nTypeError: it broke\n"
        )

    monkeypatch.setattr(subprocess, "run", ended(-9))
    with pytest.raises(UserError, match="killed by signal 9"):
        measure_apart(FCNResNetConfig(), 8)
    monkeypatch.setattr(subprocess, "run", ended(1))
    with pytest.raises(UserError, match="fcn_resnet cannot be measured: TypeError: it broke"):
        measure_apart(FCNResNetConfig(), 8)


def test_plain_lines_and_json(made_up, tmp_path):
    path = tmp_path / "deep" / "models.json"
    result = run("--json", str(path))
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].split()[:4] == ["model", "device", "parameters", "GFLOPs"]
    names = list(model_presets())
    assert [line[:18].strip() for line in lines[1 : len(names) + 1]] == names
    assert lines[1].split()[2:] == ["cpu", "1.23", "M", "0.12", "1,235", "7", "5,679"]
    assert "killed by signal 9" in lines[1 + names.index("vim tiny")]
    written = json.loads(path.read_text())
    assert written["num_frames"] == 1000 and written["machine"]["threads"] >= 1
    by_name = {model["model"]: model for model in written["models"]}
    assert list(by_name) == names
    assert by_name["vim micro"]["cpu"]["ms"] == 1234.56
    assert by_name["vim micro"]["config"]["embed_dim"] == 96
    assert by_name["vim tiny"]["failure"].startswith("killed")


@pytest.mark.parametrize("columns", [80, 120])
def test_a_terminals_table_fits_and_says_everything(made_up, monkeypatch, capsys, columns):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", str(columns))
    models_module.print_models((), None)
    screen = capsys.readouterr().out
    rows = [line for line in screen.splitlines() if line[1:].startswith(tuple(model_presets()))]
    assert "…" not in screen
    assert max(map(len, rows)) <= columns
    assert sum("1,235" in row for row in rows) == len(model_presets()) - 1
    assert "vim tiny: killed by signal 9" in screen


def test_kinds_are_chosen_and_unknown_ones_refused(made_up):
    result = run("--kind", "fcn_resnet")
    assert "fcn_resnet" in result.stdout and "vim" not in result.stdout
    result = run("--kind", "oracle")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: no kind of model oracle; known: vim, ")


def test_an_unwritable_file_is_a_message(made_up, tmp_path):
    (tmp_path / "file").write_text("")
    result = run("--kind", "fcn_resnet", "--json", str(tmp_path / "file" / "x.json"))
    assert result.exit_code == 2
    assert "cannot be written" in result.stderr
