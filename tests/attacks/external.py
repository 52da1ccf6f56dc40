"""An external generator for the tests: inverts the region of a 32-bit float wav, or misbehaves as it is told.

Arguments: input output onset_s offset_s seed [misbehaviour]. The standard library alone: it starts fast.
"""

import array
import struct
import subprocess
import sys
import time


def read(path):
    with open(path, "rb") as stream:  # noqa: PTH123 - pathlib costs as much as all the rest
        data = stream.read()
    rate = struct.unpack_from("<I", data, data.index(b"fmt ") + 12)[0]
    start = data.index(b"data") + 8
    return rate, array.array("f", data[start : start + struct.unpack_from("<I", data, start - 4)[0]])


def write(path, rate, samples):
    header = struct.pack(
        "<4sI4s4sIHHIIHH", b"RIFF", 36 + 4 * len(samples), b"WAVE", b"fmt ", 16, 3, 1, rate, 4 * rate, 4, 32
    )
    with open(path, "wb") as stream:  # noqa: PTH123
        stream.write(header + struct.pack("<4sI", b"data", 4 * len(samples)) + samples.tobytes())


def main(source, target, *how):
    onset_s, offset_s, seed, misbehaviour = (*how, "")[:4]
    rate, samples = read(source)
    onset, offset = round(float(onset_s) * rate), round(float(offset_s) * rate)
    strength = 0.5 + int(seed) % 1000 / 2000
    samples[onset:offset] = array.array("f", (-strength * x for x in samples[onset:offset]))
    if misbehaviour == "fails":
        print("first words\nno weights found\x1b[31m", file=sys.stderr)
        sys.exit(7)
    if misbehaviour == "hangs":
        child = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"])
        print(f"child {child.pid}", file=sys.stderr, flush=True)
        time.sleep(600)
    if misbehaviour == "shorter":
        samples = samples[: -rate // 10]
    if misbehaviour == "a little shorter":
        samples = samples[: -rate // 100]
    if misbehaviour == "not a number":
        samples[onset] = float("nan")
    if misbehaviour == "other rate":
        rate += 1000
    if misbehaviour == "text":
        with open(target, "w") as stream:  # noqa: PTH123
            stream.write("done!")
    elif misbehaviour != "nothing":
        write(target, rate, samples)


main(*sys.argv[1:])
