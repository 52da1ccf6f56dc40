import math
import os
import pickle
import re
import shlex
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from fakesound.attacks.base import AttackContext
from fakesound.attacks.command import CommandConfig, command_attack
from fakesound.attacks.forge import forge
from fakesound.core.errors import UserError
from fakesound.core.regions import SampleRegion

SCRIPT = Path(__file__).with_name("external.py")
PROGRAM = (
    f"{shlex.quote(sys.executable)} -S {shlex.quote(str(SCRIPT))} "
    "{input} {output} {onset_s} {offset_s} {seed}"
)
RATE = 22_255
SAMPLES = 0.1 * np.random.default_rng(0).standard_normal(RATE).astype(np.float32)
REGION = SampleRegion(5000, 12_345)


def config(command=PROGRAM, **values):
    return CommandConfig.parse({"family": "inverter", "mechanism": "inversion", "command": command, **values})


def render(command=PROGRAM, seed=0, **values):
    context = AttackContext(SAMPLES, REGION, RATE)
    return command_attack(config(command, **values)).render(context, np.random.default_rng(seed))


def test_the_region_is_what_the_command_made_of_it():
    made = render()
    strength = -made / SAMPLES[REGION.onset : REGION.offset]
    assert strength == pytest.approx(strength[0], rel=1e-4) and 0.5 <= strength[0] < 1
    assert made.tobytes() == render().tobytes() != render(seed=1).tobytes()


def test_it_forges_like_any_other_family_even_from_a_pickle():
    attack = pickle.loads(pickle.dumps(command_attack(config())))
    forged = forge(SAMPLES, [REGION], attack, sample_rate_hz=RATE, rng=np.random.default_rng(0))
    changed = np.flatnonzero(forged != SAMPLES)
    assert len(changed) > 0.9 * (REGION.offset - REGION.onset)
    assert changed[0] > REGION.onset - 1000 and changed[-1] < REGION.offset + 1000


def test_a_few_samples_too_few_are_let_pass():
    made = render(f"{PROGRAM} 'a little shorter'")
    np.testing.assert_array_equal(made, render())


@pytest.mark.parametrize(
    ("misbehaviour", "complaint"),
    [
        (
            "fails",
            r"of inverter ended with exit code 7; its last words:\nfirst words\nno weights found \[31m",
        ),
        ("nothing", "no file at {output}"),
        ("text", "not audio"),
        ("'other rate'", "rate is 23255 Hz, the input's 22255 Hz"),
        ("shorter", "lasts 0.900 s, the input 1.000 s"),
        ("'not a number'", "NaN"),
    ],
)
def test_every_misbehaviour_is_named(misbehaviour, complaint):
    with pytest.raises(UserError, match=complaint):
        render(f"{PROGRAM} {misbehaviour}")


def test_a_command_that_hangs_is_killed_with_all_that_it_started():
    started_s = time.monotonic()
    with pytest.raises(UserError, match=r"longer than timeout_s=1.5; its last words:\nchild \d+") as raised:
        render(f"{PROGRAM} hangs", timeout_s=1.5)
    assert time.monotonic() - started_s < 30
    child = int(re.search(r"child (\d+)", str(raised.value))[1])
    for _ in range(100):  # whoever inherits the orphan reaps it in its own time
        try:
            os.kill(child, 0)
        except ProcessLookupError:
            return
        if Path(f"/proc/{child}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
            return
        time.sleep(0.05)
    pytest.fail("the grandchild lives")


def test_what_cannot_be_started_is_named():
    with pytest.raises(UserError, match="cannot be started: /no/such/model"):
        render("/no/such/model {input} {output}")


def test_no_shell_sees_the_template(tmp_path):
    with pytest.raises(UserError, match="no file at"):
        render(f"/bin/echo {{input}} {{output}} ; touch {tmp_path}/owned $(touch {tmp_path}/too)")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"command": "model {input}"}, "names no {output}"),
        ({"command": "model {input} {output} {onset}"}, "no placeholder {onset}; there are input, output"),
        ({"command": "model '{input} {output}"}, "quotation"),
        ({"family": "Not a name"}, "family"),
        ({"timeout_s": 0}, "timeout_s"),
        ({"timeout_s": 1e10}, "timeout_s"),  # select would overflow
        ({"timeout_s": math.inf}, "timeout_s"),
        ({"timeout_s": math.nan}, "timeout_s"),
        ({"shell": True}, "shell"),
    ],
)
def test_bad_configurations_are_refused(values, problem):
    with pytest.raises(UserError, match=problem):
        CommandConfig.parse({"family": "f", "mechanism": "m", "command": "x {input} {output}", **values})
