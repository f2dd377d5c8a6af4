"""A server under shifting load for some minutes, and what it holds on to: gpu_soak.py MOED [SECONDS] [OPTIONS OF SERVE...].

Streams with prompts of 4 to 600 tokens, whose ids drift as time goes by; a third of them are given up by the client. Fails when a
request hangs or fails, when memory grows after the first minute, or when a slot, a block or a descriptor is not given back."""
import http.client
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

from gpu_server import CONFIG, start

CLIENTS = 12
HANGS_AFTER_S = 60
NOTE_EVERY_S = 30
SETTLED_AFTER_S = 60
# Growth that allocators and tables of connections explain, MiB.
DEVICE_GROWTH_MIB = 4
RSS_GROWTH_MIB = 32
COUNTERS = ("moed_sequences_running", "moed_requests_waiting", "moed_kv_blocks_used", "moed_requests_total", "moed_requests_ok_total",
            "moed_requests_canceled_total", "moed_requests_failed_total", "moed_generated_tokens_total", "moed_steps_total",
            "moed_long_passes_total", "moed_pass_timeouts_total", "moed_pass_retries_total", "moed_preemptions_total",
            "moed_pager_uses_total", "moed_pager_hits_total", "moed_pager_admissions_total", "moed_pager_load_errors_total",
            "moed_http_connections")


class Soak:
    def __init__(self, port):
        self.port = port
        self.begin = time.monotonic()
        self.stop = threading.Event()
        self.lock = threading.Lock()
        self.failures = []
        self.whole = self.given_up = 0

    def fail(self, text):
        with self.lock:
            self.failures.append(f"{time.monotonic() - self.begin:.0f} s: {text}")

    def one(self, rng):
        """One stream, read to its end or given up after some lines."""
        drift = int(time.monotonic() - self.begin) // 20
        n = rng.choice((4, 17, 40, 90, 200, 600))
        prompt = [(drift * 31 + rng.randrange(40)) % 256 for _ in range(n)]
        body = {"model": self.model, "prompt": prompt, "max_tokens": rng.randrange(4, 64), "stream": True, "ignore_eos": True,
                "temperature": rng.choice((0, 0.8)), "seed": rng.randrange(1000)}
        lines = rng.randrange(30) if rng.random() < 1 / 3 else None
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=HANGS_AFTER_S)
        try:
            connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
            reply = connection.getresponse()
            if reply.status != 200:
                return self.fail(f"status {reply.status}: {reply.read()[:200]!r}")
            last = b""
            for count, line in enumerate(reply):
                if lines is not None and count >= lines:
                    break
                if b'"error"' in line:
                    return self.fail(f"{line[:200]!r}")
                last = line.strip() or last
            with self.lock:
                if lines is None:
                    self.whole += 1
                else:
                    self.given_up += 1
            if lines is None and last != b"data: [DONE]":
                self.fail(f"a stream of {n} tokens ended with {last[:200]!r}")
        except OSError as e:
            self.fail(f"a stream of {n} tokens: {e!r}")
        finally:
            connection.close()

    def client(self, seed):
        rng = random.Random(seed)
        while not self.stop.is_set() and len(self.failures) < 10:
            self.one(rng)
            if rng.random() < 0.1:
                time.sleep(rng.random())

    def counters(self):
        text = urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=HANGS_AFTER_S).read().decode()
        found = dict(line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#"))
        return {name: int(float(found[name])) for name in COUNTERS if name in found}


def nvidia_smi(query):
    done = subprocess.run(["nvidia-smi", query, "--format=csv,noheader,nounits"], capture_output=True, text=True, timeout=60)
    return [line.split(", ") for line in done.stdout.splitlines()] if done.returncode == 0 else []


def device_mib(pid):
    """What the process holds on the GPU; where the driver does not tell processes apart, what all hold."""
    if not shutil.which("nvidia-smi"):
        return 0
    for row in nvidia_smi("--query-compute-apps=pid,used_memory"):
        if row[0] == str(pid) and row[-1].isdigit():
            return int(row[-1])
    return int(nvidia_smi("--query-gpu=memory.used")[0][0])


def note(soak, process):
    status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
    rss = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
    found = {"second": round(time.monotonic() - soak.begin), "device_mib": device_mib(process.pid), "rss_mib": rss // 1024,
             "descriptors": len(os.listdir(f"/proc/{process.pid}/fd")), **soak.counters()}
    print(json.dumps(found), flush=True)
    return found


def judge(soak, notes):
    """The settled state against the one at the end, when all clients have gone."""
    end = notes[-1]
    base = next((n for n in notes if n["second"] >= SETTLED_AFTER_S), notes[len(notes) // 2])
    for name, bound in (("device_mib", DEVICE_GROWTH_MIB), ("rss_mib", RSS_GROWTH_MIB)):
        most = max(n[name] for n in notes if n["second"] >= base["second"])
        if most - base[name] > bound:
            soak.fail(f"{name} grew from {base[name]} at {base['second']} s to {most}: more than {bound}")
    if end["descriptors"] > notes[0]["descriptors"]:
        soak.fail(f"{end['descriptors']} descriptors at the end, {notes[0]['descriptors']} before")
    for name in ("moed_sequences_running", "moed_requests_waiting", "moed_kv_blocks_used", "moed_requests_failed_total",
                 "moed_pager_load_errors_total"):
        if end.get(name, 0):
            soak.fail(f"{name} is {end[name]} at the end")
    ended = sum(end[f"moed_requests_{how}_total"] for how in ("ok", "canceled", "failed"))
    if ended != end["moed_requests_total"]:
        soak.fail(f"{end['moed_requests_total']} requests, {ended} ended")
    if not soak.whole or not soak.given_up:
        soak.fail("no load")


def rest(soak, seconds):
    """Until nothing is in flight, or the time is over."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        c = soak.counters()
        if not c["moed_sequences_running"] and not c["moed_requests_waiting"] and c.get("moed_http_connections", 1) <= 1:
            return
        time.sleep(0.2)


def run(soak, process, seconds):
    threading.Thread(target=process.stderr.read, daemon=True).start()
    soak.model = json.load(urllib.request.urlopen(f"http://127.0.0.1:{soak.port}/v1/models"))["data"][0]["id"]
    notes = [note(soak, process)]
    clients = [threading.Thread(target=soak.client, args=(seed,)) for seed in range(CLIENTS)]
    for c in clients:
        c.start()
    until = soak.begin + seconds
    while time.monotonic() < until and not soak.failures and process.poll() is None:
        time.sleep(max(0, min(NOTE_EVERY_S, until - time.monotonic())))
        notes.append(note(soak, process))
    soak.stop.set()
    for c in clients:
        c.join(HANGS_AFTER_S + 10)
        if c.is_alive():
            soak.fail("a request hangs")
    if process.poll() is None:
        rest(soak, 20)
        notes.append(note(soak, process))
        judge(soak, notes)
        process.send_signal(signal.SIGTERM)
    if process.wait(timeout=60) != 0:
        soak.fail(f"the server ended with {process.returncode}")


def main():
    moed, seconds = sys.argv[1], float(sys.argv[2] if len(sys.argv) > 2 else 420)
    here = pathlib.Path(__file__).parent
    with tempfile.TemporaryDirectory() as folder:
        (pathlib.Path(folder) / "config.json").write_text(json.dumps(CONFIG))
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(here / "data" / "server" / name, folder)
        process, port = start(moed, folder, "--load-format", "dummy", "--device", "cuda", "--expert-cache", "4MiB",
                              "--long-prefill-tokens", "1024", "--max-num-seqs", "16", *sys.argv[3:])
        soak = Soak(port)
        try:
            run(soak, process, seconds)
        finally:
            process.kill()
    print(f"{soak.whole} streams to their end, {soak.given_up} given up")
    if soak.failures:
        sys.exit("\n".join(soak.failures))


if __name__ == "__main__":
    main()
