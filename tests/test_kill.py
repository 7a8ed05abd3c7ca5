"""A small sample of tests/soak/kill.py: training under kill -9."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import children
import pytest

KILL = Path(__file__).parent / "soak" / "kill.py"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_training_leaves_whole_checkpoints_and_goes_on_with_the_same_bits(tmp_path: Path) -> None:
    out = tmp_path / "kill.json"
    call = [sys.executable, str(KILL), "--seed", "1", "--out", str(out)]
    for kills, resumes in ((5, 0), (20, 5)):  # the second goes on where the first ended
        done = subprocess.run(
            [*call, "--kills", str(kills), "--resumes", str(resumes)],
            capture_output=True,
            text=True,
            env=children.environment(),
        )
        assert done.returncode == 0, done.stdout + done.stderr
    counts = json.loads(out.read_text())["counts"]
    assert counts["kills"] == 20 and counts["runs resumed"] == 5
    assert counts["checkpoints read"] >= 15 and counts["kills before a resumption"] >= 5
