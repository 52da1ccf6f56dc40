import signal
import subprocess
import sys
import time
from pathlib import Path


def test_workers_of_a_pool_die_with_a_killed_parent(tmp_path):
    (tmp_path / "work.py").write_text(
        "import os, time\n"
        "from fakesound.core.parallel import map_parallel\n"
        "def work(index):\n"
        "    print(os.getpid(), flush=True)\n"
        "    time.sleep(60)\n"
        "if __name__ == '__main__':\n"
        "    list(map_parallel(work, list(range(16)), description='x', jobs=2))\n"
    )
    parent = subprocess.Popen([sys.executable, str(tmp_path / "work.py")], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    workers = [int(parent.stdout.readline()) for _ in range(2)]
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    deadline_s = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in workers):
        assert time.monotonic() < deadline_s, "orphans"
        time.sleep(0.05)
