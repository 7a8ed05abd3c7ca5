"""A small sample of tests/soak/explore_kill.py: searches under kill -9."""

import json
import os
import subprocess
import sys
from pathlib import Path

import children
import pytest

KILL = Path(__file__).parent / "soak" / "explore_kill.py"


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_search_whose_driver_is_killed_finds_the_same_front(tmp_path):
    out = tmp_path / "kill.json"
    call = [sys.executable, str(KILL), "--kills", "4", "--seed", "1", "--out", str(out)]
    done = subprocess.run(call, capture_output=True, text=True, env=children.environment())
    assert done.returncode == 0, done.stdout + done.stderr
    counts = json.loads(out.read_text())["counts"]
    assert counts["kills"] == 4 and counts["points in the journal when killed"] > 0
