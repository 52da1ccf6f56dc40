"""Katib reads a trial's score from what training prints."""

import re

from fakesound.training.ranks import Ranks
from fakesound.training.trainer import train

# DefaultFilter of Katib 0.19 (pkg/metricscollector/v1beta1/common/const.go).
KATIB_FILTER = re.compile(r"([\w|-]+)\s*=\s*([+-]?\d*(\.\d+)?([Ee][+-]?\d+)?)")


def test_every_epoch_prints_one_line_that_katibs_collector_reads(make_request, tiny_model, capsys):
    train(make_request(epochs=3), Ranks())
    lines = [line for line in capsys.readouterr().out.splitlines() if "validation_score" in line]
    assert len(lines) == 3
    for line in lines:
        found = {match[1]: match[2] for match in KATIB_FILTER.finditer(line)}
        assert found.keys() == {"validation_score"}  # it dies of any other name=
        assert 0 <= float(found["validation_score"]) <= 1
