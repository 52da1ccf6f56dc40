"""An attack that is another program: how a neural generator, in an environment of its own, forges for us.

The command reads a wav (the whole recording, mono, 32-bit float, at its own rate) and writes a wav of the
same rate and length with the region filled anew; what it does outside the region is not looked at.
Placeholders:

    {input} {output}         paths of both files
    {onset_s} {offset_s}     the region in seconds, crossfade margins included
    {seed}                   an integer; equal seeds must give equal output

The template is split as a shell would split it, and no shell ever sees it. What is filled is matched and
crossfaded like every other family's.

A corpus that was built is found again by its configuration, and that does not see into the program: where the
program or its weights have changed, change the family's name, the command line or `corpus.seed` too.
"""

import os
import re
import select
import shlex
import signal
import subprocess
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
from pydantic import Field, field_validator

from fakesound.attacks.base import Attack, AttackContext, FloatArray
from fakesound.core.audio import AudioError, read_mono, write_wav
from fakesound.core.config import Config
from fakesound.core.errors import UserError

LENGTH_TOLERANCE_S = 0.02  # models that work in whole frames lose or gain that much
_PLACEHOLDERS = ("input", "output", "onset_s", "offset_s", "seed")
_PLACEHOLDER = re.compile(r"\{(\w+)\}")
_STDERR_LINES, _STDERR_BYTES = 5, 4000


class CommandConfig(Config):
    """A family that an external command forges.

    Attributes:
        family: its name in manifests; no other family may have it.
        mechanism: what it shares with its cousins; cousins leave training together.
        command: template of the command line, see `fakesound.attacks.command`.
        timeout_s: the command and all that it started are killed after that long; a day at most.
    """

    family: str = Field(pattern=r"^[a-z0-9][a-z0-9_.-]*$")
    mechanism: str = Field(pattern=r"^[a-z0-9][a-z0-9_.-]*$")
    command: str
    timeout_s: float = Field(default=600.0, gt=0, le=86_400)

    @field_validator("command")
    @classmethod
    def _can_be_run(cls, command: str) -> str:
        shlex.split(command)  # raises ValueError where a quotation is not closed
        named = _PLACEHOLDER.findall(command)
        for required in ("input", "output"):
            if required not in named:
                raise ValueError(f"the template names no {{{required}}}")
        for name in named:
            if name not in _PLACEHOLDERS:
                raise ValueError(f"no placeholder {{{name}}}; there are {', '.join(_PLACEHOLDERS)}")
        return command


def command_attack(config: CommandConfig) -> Attack:
    """The command as a family like any other. It can be pickled, so worker processes forge with it too."""
    return Attack(
        family=config.family,
        mechanism=config.mechanism,
        summary=f"external command {shlex.split(config.command)[0]}",
        render=partial(_render, config),
    )


def _render(config: CommandConfig, context: AttackContext, rng: np.random.Generator) -> FloatArray:
    with tempfile.TemporaryDirectory(prefix="fakesound-") as folder:
        paths = Path(folder, "input.wav"), Path(folder, "output.wav")
        write_wav(paths[0], context.samples, context.sample_rate_hz)
        values = {
            "input": str(paths[0]),
            "output": str(paths[1]),
            "onset_s": f"{context.region.onset / context.sample_rate_hz:.6f}",
            "offset_s": f"{context.region.offset / context.sample_rate_hz:.6f}",
            "seed": str(rng.integers(2**31)),
        }
        arguments = [
            _PLACEHOLDER.sub(lambda match: values[match[1]], part) for part in shlex.split(config.command)
        ]
        said = _run(config, arguments, Path(folder, "stderr.txt"))
        try:
            made = _checked_output(paths[1], context)
        except AudioError as error:
            raise _failure(config, f"wrote nothing that can be used: {error}", said) from None
    return made[context.region.onset : context.region.offset]


def _run(config: CommandConfig, arguments: list[str], stderr: Path) -> str:
    """Run to the end, and return the last lines of what was said on stderr.

    That is a file, since a pipe that a grandchild holds open would be waited for.
    """
    with stderr.open("wb") as stream:
        try:
            process = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stream,
                start_new_session=True,
            )
        except OSError as error:
            raise _failure(config, f"cannot be started: {arguments[0]}: {error.strerror}", "") from None
    ended = _wait_and_end_group(process, config.timeout_s)
    said = _last_lines(stderr)
    if not ended:
        raise _failure(config, f"took longer than timeout_s={config.timeout_s:g}", said)
    if process.returncode:
        raise _failure(config, f"ended with exit code {process.returncode}", said)
    return said


def _wait_and_end_group(process: subprocess.Popen[bytes], timeout_s: float) -> bool:
    """Whether the process ended in time; either way nothing of its group is left running.

    The group is killed before the process is reaped: until then no other group can have its number.
    """
    watched = os.pidfd_open(process.pid)
    try:
        return bool(select.select([watched], [], [], timeout_s)[0])
    finally:
        os.close(watched)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _last_lines(path: Path) -> str:
    with path.open("rb") as stream:
        stream.seek(max(0, path.stat().st_size - _STDERR_BYTES))
        lines = stream.read().decode(errors="replace").splitlines()[-_STDERR_LINES:]
    return "\n".join("".join(c if c.isprintable() else " " for c in line) for line in lines)


def _checked_output(path: Path, context: AttackContext) -> FloatArray:
    """What was written, cut or followed by zeros to the recording's length where it is nearly that long."""
    if not path.exists():
        raise AudioError("there is no file at {output}")
    wanted, rate_hz = len(context.samples), context.sample_rate_hz
    made, found_hz = read_mono(path, max_s=wanted / rate_hz + 1)
    if found_hz != rate_hz:
        raise AudioError(f"its rate is {found_hz} Hz, the input's {rate_hz} Hz")
    if abs(len(made) - wanted) > LENGTH_TOLERANCE_S * rate_hz:
        raise AudioError(
            f"it lasts {len(made) / rate_hz:.3f} s, the input {wanted / rate_hz:.3f} s "
            f"(at most {LENGTH_TOLERANCE_S} s of difference are let pass)"
        )
    return np.pad(made[:wanted], (0, max(0, wanted - len(made))))


def _failure(config: CommandConfig, problem: str, said: str) -> UserError:
    last_words = f"; its last words:\n{said}" if said else ""
    return UserError(f"the command of {config.family} {problem}{last_words}")
