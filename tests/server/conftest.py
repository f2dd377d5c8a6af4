"""Starts servers for the tests: the one over the fake engine, and `moed serve` itself where it is built."""
import json
import os
import pathlib
import queue
import re
import resource
import signal
import socket
import subprocess
import threading
import time

import httpx
import pytest

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
MODEL = ROOT / "tests" / "data" / "server"
# For all that must come: no machine is so busy that it takes this long.
PATIENCE_S = 300


def pytest_addoption(parser):
    parser.addoption("--moed", default=str(ROOT / "build" / "release" / "moed"), help="the program under test")
    parser.addoption("--device", default="auto", help="where servers of real models compute, as moed serve --device has it")


def pytest_configure(config):
    RealServer.device = config.getoption("--device")


def limit_descriptors(count):
    resource.setrlimit(resource.RLIMIT_NOFILE, (count, count))


class Server:
    """A running server: its address, its process, and what tests ask of it."""

    def __init__(self, command, host="127.0.0.1", env=(), descriptors=None):
        self.log = []
        self.host = host
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, **dict(env)},
                                        preexec_fn=descriptors and (lambda: limit_descriptors(descriptors)))
        ports = queue.Queue()
        for pipe in (self.process.stdout, self.process.stderr):
            threading.Thread(target=self._read, args=(pipe, ports), daemon=True).start()
        try:
            self.port = ports.get(timeout=PATIENCE_S)
        except queue.Empty:
            self.process.kill()
            raise RuntimeError("the server does not listen: " + "".join(self.log)) from None
        literal = f"[{host}]" if ":" in host else host
        self.url = f"http://{literal}:{self.port}"

    def _read(self, pipe, ports):
        for line in iter(pipe.readline, b""):
            text = line.decode(errors="replace")
            self.log.append(text)
            found = re.match(r"port (\d+)$", text) or re.search(r"listening on http://\S+:(\d+)", text)
            if found:
                ports.put(int(found.group(1)))

    def wait_ready(self):
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            assert self.process.poll() is None, "".join(self.log)
            if self.get("/health").status_code == 200:
                return self
            time.sleep(0.02)
        raise TimeoutError("not ready: " + "".join(self.log))

    def post(self, path, body, **kwargs):
        return httpx.post(self.url + path, json=body, timeout=PATIENCE_S, **kwargs)

    def get(self, path, **kwargs):
        return httpx.get(self.url + path, timeout=PATIENCE_S, **kwargs)

    def metrics(self):
        """name (with labels) -> value"""
        values = {}
        for line in self.get("/metrics").text.splitlines():
            if not line.startswith("#"):
                name, value = line.rsplit(" ", 1)
                values[name] = float(value)
        return values

    def wait_metric(self, name, value):
        end = time.monotonic() + PATIENCE_S
        while True:
            seen = self.metrics().get(name)
            if seen == value:
                return
            assert time.monotonic() < end, f"{name} is {seen}, not {value}"
            time.sleep(0.01)

    def wait_log(self, text, count=1):
        """Waits until so many lines with the text were said."""
        end = time.monotonic() + PATIENCE_S
        while sum(text in line for line in self.log) < count:
            assert time.monotonic() < end, f"no {text!r} in " + "".join(self.log)
            time.sleep(0.01)

    def wait_draining(self):
        """Waits until the first signal was heard: two that come together are one."""
        end = time.monotonic() + PATIENCE_S
        while True:
            try:
                self.connect().close()
            except ConnectionError:
                return
            assert time.monotonic() < end, "".join(self.log)
            time.sleep(0.01)

    def connect(self, receive_bytes=None):
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM)
        if receive_bytes:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        sock.settimeout(PATIENCE_S)
        sock.connect((self.host, self.port))
        return sock

    def resident_bytes(self):
        with open(f"/proc/{self.process.pid}/statm", encoding="ascii") as f:
            return int(f.read().split()[1]) * os.sysconf("SC_PAGESIZE")

    def signal(self, number):
        self.process.send_signal(number)

    def stop(self):
        """Ends it the way a supervisor does; its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            time.sleep(0.05)
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise


class RealServer(Server):
    """`moed serve` of a model, on the device that the tests were asked to use."""

    device = "auto"

    def __init__(self, moed, folder, *options):
        super().__init__([moed, "serve", folder, "--port", "0", "--device", self.device, *map(str, options)])


class Reply:
    """One HTTP reply read off a socket."""

    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    def json(self):
        return json.loads(self.body)


def read_reply(stream, head_only=False):
    """Reads one reply from a socket's file object; None at its end."""
    line = stream.readline()
    if not line:
        return None
    status = int(line.split()[1])
    headers = {}
    while True:
        line = stream.readline()
        if line in (b"\r\n", b""):
            break
        name, value = line.decode().split(":", 1)
        headers[name.lower()] = value.strip()
    if status == 100:
        return Reply(status, headers, b"")
    if "content-length" in headers and not head_only:
        return Reply(status, headers, stream.read(int(headers["content-length"])))
    body = b""
    if headers.get("transfer-encoding") == "chunked":
        while True:
            size = int(stream.readline(), 16)
            body += stream.read(size)
            assert stream.readline() == b"\r\n"
            if size == 0:
                break
    return Reply(status, headers, body)


def raw_post(path, body, headers=()):
    """The bytes of a POST."""
    if not isinstance(body, bytes):
        body = json.dumps(body).encode()
    lines = [f"POST {path} HTTP/1.1", "Host: test", "Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, *headers]).encode() + b"\r\n\r\n" + body


def events(text):
    """The data of server-sent events, parsed; [DONE] as a string."""
    found = []
    for block in text.split("\n\n"):
        for line in block.splitlines():
            if line.startswith("data: "):
                data = line[len("data: "):]
                found.append(data if data == "[DONE]" else json.loads(data))
    return found


@pytest.fixture(scope="session")
def moed(request):
    return pathlib.Path(request.config.getoption("--moed"))


@pytest.fixture(scope="session")
def fake_program(moed):
    path = moed.parent / "tests" / "server" / "moed_fake_server"
    assert path.exists(), f"{path} is not built"
    return path


@pytest.fixture
def start(fake_program):
    """start("--option", "value", ...) gives a ready server over the fake engine, ended after the test."""
    running = []

    def start_one(*options, host="127.0.0.1", ready=True, **kwargs):
        server = Server([fake_program, MODEL, "--host", host, "--port", "0", *map(str, options)], host, **kwargs)
        running.append(server)
        return server.wait_ready() if ready else server

    start_one.running = running
    yield start_one
    codes = [server.stop() for server in running]
    assert codes == [0] * len(codes), "".join(running[-1].log)


@pytest.fixture(scope="session")
def fake(fake_program):
    """One server over the fake engine that many tests share."""
    server = Server([fake_program, MODEL, "--port", "0"]).wait_ready()
    yield server
    assert server.stop() == 0, "".join(server.log)
