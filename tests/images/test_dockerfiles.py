import re
from pathlib import Path

import pytest

IMAGES = Path(__file__).parents[2] / "images"


@pytest.mark.parametrize("name", ["Dockerfile.cpu", "Dockerfile.cuda"])
def test_images_install_the_hash_locks_and_run_as_nobody_special(name):
    text = (IMAGES / name).read_text()
    for lock in ("bootstrap.txt", "runtime.txt"):
        assert re.search(rf"--require-hashes -r requirements/{lock}", text)
    assert re.search(r"^USER 10001:10001$", text, re.MULTILINE)
    assert ":latest" not in text
