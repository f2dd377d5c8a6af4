"""The examples run as they stand."""
import subprocess
import sys

from conftest import PATIENCE_S, ROOT


def test_curl(fake):
    out = subprocess.run(["sh", ROOT / "examples" / "curl.sh", fake.url], capture_output=True, text=True, timeout=PATIENCE_S)
    assert out.returncode == 0, out.stderr
    assert '"object":"chat.completion"' in out.stdout and "data: [DONE]" in out.stdout and '"error"' not in out.stdout


def test_chat(fake):
    command = [sys.executable, ROOT / "examples" / "chat.py", fake.url]
    out = subprocess.run(command, input="hello @stop_at=20\n\n", capture_output=True, text=True, timeout=PATIENCE_S)
    assert out.returncode == 0, out.stderr
    assert "fake at" in out.stdout and "+ 20 tokens]" in out.stdout
