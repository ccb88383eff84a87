"""The rehearsal of docs/live.md, command by command as it stands there."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.long
def test_the_rehearsal_runs(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "live.md").read_text(encoding="utf-8")
    script = re.findall(r"```bash\n(.*?)```", text, flags=re.S)[0]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    script = script.replace("8099", port).replace("DATA=data/rehearsal", f"DATA={tmp_path}/rehearsal")
    script = script.replace("--every-s 2", "--every-s 0.5").replace("sleep 6", "sleep 2").replace("sleep 5", "sleep 3")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    ran = subprocess.run(
        ["bash", "-euc", f"trap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n{script}"],
        cwd=ROOT, env=os.environ | {"PATH": path}, capture_output=True, text=True, timeout=400,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-3000:]
    data = tmp_path / "rehearsal" / "quick"
    summary = json.loads((data / "experiments/live/rehearsal/iteration_1/iteration.json").read_text())
    assert summary["labels_received"] == 8 and summary["control_labels_received"] == 10
    status = json.loads((data / "experiments/live/rehearsal/status.json").read_text())
    assert (status["state"], status["run"]["stage"], status["found"]["iterations"]) == ("well", "reduce", 2)
    assert (data / "demo/classifications/classifications.csv").is_file() and ran.stdout.count("would upload") == 18
    written = [p for p in (tmp_path / "rehearsal").rglob("*") if p.is_file() and p.name != "zooniverse.json"]
    assert any(p.name == "run.log" for p in written) and any(p.suffix == ".yaml" for p in written)
    for file in written:
        assert b"rehearsal-secret" not in file.read_bytes(), f"{file} holds the secret"
    assert "rehearsal-secret" not in ran.stderr
