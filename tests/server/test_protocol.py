"""HTTP/1.1 on the wire: framing, limits, connections."""
import json
import re
import signal
import socket
import subprocess
import time

import httpx
import pytest

from conftest import MODEL, PATIENCE_S, raw_post, read_reply

GOOD = raw_post("/v1/completions", {"prompt": "hi", "max_tokens": 2, "temperature": 0})


def talk(server, data, replies=1):
    with server.connect() as sock, sock.makefile("rb") as stream:
        sock.sendall(data)
        return [read_reply(stream) for _ in range(replies)]


def test_keep_alive_and_pipelining(fake):
    with fake.connect() as sock, sock.makefile("rb") as stream:
        for _ in range(3):
            sock.sendall(GOOD)
            reply = read_reply(stream)
            assert reply.status == 200 and "connection" not in reply.headers
        sock.sendall(GOOD * 20 + b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        replies = [read_reply(stream) for _ in range(21)]
        assert [r.status for r in replies] == [200] * 21 and replies[-1].json() == {"status": "ok"}


def test_pipelined_input_beyond_the_high_water_mark(fake):
    long_prompt = raw_post("/tokenize", {"prompt": "x" * 100000})
    slow = raw_post("/v1/completions", {"prompt": "@slow=10", "max_tokens": 20})
    replies = talk(fake, slow + long_prompt * 5, 6)
    assert [r.status for r in replies] == [200] * 6 and replies[-1].json()["count"] == 100001


def test_bytes_one_at_a_time(fake):
    with fake.connect() as sock, sock.makefile("rb") as stream:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for i in range(len(GOOD)):
            sock.sendall(GOOD[i:i + 1])
        assert read_reply(stream).status == 200


def test_http_1_0(fake):
    reply, end = talk(fake, b"GET /health HTTP/1.0\r\n\r\n", 2)
    assert reply.status == 200 and reply.headers["connection"] == "close" and end is None
    reply, = talk(fake, b"GET /health HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    assert reply.headers["connection"] == "keep-alive"


def test_a_stream_to_http_1_0_ends_with_the_connection(fake):
    body = json.dumps({"prompt": "hi", "max_tokens": 3, "stream": True}).encode()
    head = b"POST /v1/completions HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
    with fake.connect() as sock, sock.makefile("rb") as stream:
        sock.sendall(head + body)
        whole = stream.read()
    assert b"transfer-encoding" not in whole.lower() and whole.endswith(b"data: [DONE]\n\n")


def test_connection_close(fake):
    reply, end = talk(fake, b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 2)
    assert reply.headers["connection"] == "close" and end is None


def test_head(fake):
    with fake.connect() as sock, sock.makefile("rb") as stream:
        sock.sendall(b"HEAD /health HTTP/1.1\r\nHost: x\r\n\r\nGET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        reply = read_reply(stream, head_only=True)
        assert reply.status == 200 and int(reply.headers["content-length"]) > 0
        assert read_reply(stream).json() == {"status": "ok"}


def test_chunked_bodies(fake):
    body = json.dumps({"prompt": "hi", "max_tokens": 2}).encode()
    head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunks = b"".join(b"%X;name=value\r\n%s\r\n" % (1, body[i:i + 1]) for i in range(len(body)))
    whole = head + chunks + b"0\r\nTrailer: x\r\n\r\n"
    assert [r.status for r in talk(fake, whole * 2, 2)] == [200, 200]


def test_expect_100_continue(fake):
    body = json.dumps({"prompt": "hi", "max_tokens": 2}).encode()
    head = ("POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nExpect: 100-continue\r\n\r\n").encode()
    with fake.connect() as sock, sock.makefile("rb") as stream:
        sock.sendall(head)
        assert read_reply(stream).status == 100
        sock.sendall(body)
        assert read_reply(stream).status == 200
        sock.sendall(head.replace(b"/v1/completions", b"/nope"))
        assert read_reply(stream).status == 404


BAD = [
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    (b"GET /health\r\n", 400),
    (b"GET  /health HTTP/1.1\r\n", 400),
    (b"GET /health HTTP/1.1\n", 400),
    (b"GET health HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    (b"GET /he\x01lth HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    (b"GET /health HTTP/2.0\r\nHost: x\r\n\r\n", 505),
    (b"GET /health HTTX/1.1\r\nHost: x\r\n\r\n", 400),
    (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    (b"GET /health HTTP/1.1\r\n\r\n", 400),
    (b"GET /health HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", 400),
    (b"GET /health HTTP/1.1\r\nHost: x\r\nBad Name: y\r\n\r\n", 400),
    (b"GET /health HTTP/1.1\r\nHost : x\r\n\r\n", 400),
    (b"GET /health HTTP/1.1\r\nHost: x\r\n folded\r\n\r\n", 400),
    (b"GET /health HTTP/1.1\r\nHost: x\r\nA: \x00\r\n\r\n", 400),
    (b"GET /health HTTP/1.1\r\nHost: x\nA: b\r\n\r\n", 400),
    (b"GET /health HTTP/1.1\r\nHost: x\r\nNoColon\r\n\r\n", 400),
    (b"POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
    (b"POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400),
    (b"POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: 1x\r\n\r\n", 400),
    (b"POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999999\r\n\r\n", 413),
    (b"POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: 17000000\r\n\r\n", 413),
    (b"POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    (b"POST /tokenize HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501),
    (b"POST /tokenize HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    (b"GET /health HTTP/1.1\r\nHost: x\r\nExpect: 200-ok\r\n\r\n", 417),
    (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414),
    (b"GET /health HTTP/1.1\r\nHost: x\r\nA: " + b"b" * 40000, 431),
    (b"GET /health HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 200 + b"\r\n", 431),
    (b"\r\n" * 10 + b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n", 400),
]


@pytest.mark.parametrize("data, status", BAD, ids=range(len(BAD)))
def test_faults_have_json_bodies(fake, data, status):
    reply, end = talk(fake, data, 2)
    assert reply.status == status and end is None
    assert reply.headers["content-type"] == "application/json" and reply.headers["connection"] == "close"
    assert set(reply.json()["error"]) == {"message", "type", "param", "code"}
    assert reply.headers["x-request-id"]


@pytest.mark.parametrize("chunks", [b"x\r\n", b"5\r\nabcdeXX", b"5\nabcde\r\n", b"ffffffffffffffffff\r\n", b"0\r\nA: b\n"])
def test_broken_chunks(fake, chunks):
    head = b"POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    reply, end = talk(fake, head + chunks, 2)
    assert reply.status in (400, 413) and end is None and reply.json()["error"]["message"]


def test_a_body_over_the_limit_is_refused_while_it_is_sent(start):
    server = start("--max-body", 100000)
    for data in (b"x" * 4_000_000, iter([b"x" * 50000] * 80)):
        reply = httpx.post(server.url + "/tokenize", content=data, headers={"content-type": "application/json"}, timeout=PATIENCE_S)
        assert reply.status_code == 413 and reply.json()["error"]["code"] == "body_too_large"
    server.wait_metric("moed_http_inflight_bytes", 0)


def test_request_ids(fake):
    assert fake.get("/health", headers={"x-request-id": "my-id.7"}).headers["x-request-id"] == "my-id.7"
    made = {fake.get("/health").headers["x-request-id"] for _ in range(20)}
    assert len(made) == 20
    for unusable in ("a b", "x" * 200, "\u00e9".encode()):
        assert fake.get("/health", headers={"x-request-id": unusable}).headers["x-request-id"].startswith("req-")


def test_timeouts_of_requests(start):
    server = start("--header-timeout", 0.3, "--idle-timeout", 0.5)
    for data in (b"GET /health HTTP/1.1\r\nHost:", GOOD[:-5], GOOD[:20]):
        began = time.monotonic()
        reply, end = talk(server, data, 2)
        assert reply.status == 408 and end is None and reply.json()["error"]["code"] == "request_timeout"
        assert time.monotonic() - began > 0.2
    with server.connect() as sock:
        assert sock.recv(1) == b""  # an idle connection just ends
    server.wait_metric("moed_http_connections", 1)


def test_half_sent_requests_of_gone_clients(start):
    server = start()
    for cut in (1, 10, len(GOOD) // 2, len(GOOD) - 1):
        for _ in range(20):
            with server.connect() as sock:
                sock.sendall(GOOD[:cut])
    assert server.post("/v1/completions", {"prompt": "hi"}).status_code == 200
    server.wait_metric("moed_http_connections", 1)
    assert server.metrics()["moed_http_inflight_bytes"] == 0


def test_a_limit_on_connections(start):
    began = time.monotonic()
    server = start("--max-connections", 5)
    held = []
    for _ in range(4):
        sock = server.connect()
        sock.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        with sock.makefile("rb") as stream:
            assert read_reply(stream).status == 200
        held.append(sock)
    extra = [server.connect() for _ in range(3)]
    statuses = []
    for sock in extra:
        sock.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        with sock.makefile("rb") as stream:
            statuses.append(read_reply(stream).status)
    assert sorted(statuses) == [200, 503, 503]
    for sock in held + extra:
        sock.close()
    server.wait_metric("moed_http_connections", 1)
    assert server.metrics()["moed_http_connections_refused_total"] == 2
    # Logged with the time they took, not with that since the machine's start.
    server.wait_log(" 503 in ", 2)
    logged = [re.search(r" 503 in ([\d.]+) s", line) for line in server.log]
    times = [float(found.group(1)) for found in logged if found]
    assert len(times) == 2 and max(times) < min(PATIENCE_S, time.monotonic() - began + 1), server.log


@pytest.mark.parametrize("host", ["::1", "::", "localhost", "0.0.0.0"])
def test_addresses(start, host):
    server = start(host=host) if host in ("::1",) else None
    if server:
        assert server.get("/health").status_code == 200
        return
    server = start(host=host, ready=False)
    families = {"::": ("127.0.0.1", "[::1]"), "localhost": ("127.0.0.1",), "0.0.0.0": ("127.0.0.1",)}[host]
    for address in families:
        server.url = f"http://{address}:{server.port}"
        assert server.wait_ready().get("/health").status_code == 200


def test_a_unix_socket(start, tmp_path):
    path = tmp_path / "socket"
    server = start(host=f"unix:{path}", ready=False)
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), timeout=PATIENCE_S) as client:
        while client.get("http://x/health").status_code != 200:
            time.sleep(0.02)
        assert client.post("http://x/v1/completions", json={"prompt": "hi"}).status_code == 200
    server.stop()
    assert not path.exists()


def test_a_socket_file_in_use_is_left_alone(start, fake_program, tmp_path):
    path = tmp_path / "socket"
    first = start(host=f"unix:{path}", ready=False)
    second = subprocess.run([fake_program, MODEL, "--host", f"unix:{path}"], capture_output=True, text=True, timeout=PATIENCE_S)
    assert second.returncode == 1 and "in use" in second.stderr
    assert path.exists() and first.process.poll() is None
    first.process.kill()
    first.process.wait()
    third = start(host=f"unix:{path}", ready=False)
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), timeout=PATIENCE_S) as client:
        assert client.get("http://x/version").status_code == 200
    start.running.remove(first)
    assert third.stop() == 0


def test_a_port_in_use_is_an_error(fake, fake_program):
    command = [fake_program, MODEL, "--port", str(fake.port)]
    second = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    assert second.returncode == 1 and str(fake.port) in second.stderr and "in use" in second.stderr


def test_when_descriptors_run_out(start):
    server = start(descriptors=48)
    held = []
    for _ in range(80):
        sock = server.connect()
        sock.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        held.append(sock)
    server.wait_log("cannot accept")
    for sock in held:
        sock.close()
    assert server.post("/v1/completions", {"prompt": "hi"}).status_code == 200


def test_cors(start, fake):
    server = start("--cors-origin", "https://a.example", "--cors-origin", "http://localhost:3000")
    ask = {"origin": "https://a.example", "access-control-request-method": "POST",
           "access-control-request-headers": "authorization, content-type"}
    reply = httpx.options(server.url + "/v1/chat/completions", headers=ask, timeout=PATIENCE_S)
    assert reply.status_code == 204 and reply.headers["access-control-allow-origin"] == "https://a.example"
    assert "POST" in reply.headers["access-control-allow-methods"] and reply.headers["vary"] == "Origin"
    assert reply.headers["access-control-allow-headers"] == "authorization, content-type"
    reply = server.post("/v1/completions", {"prompt": "hi"}, headers={"origin": "http://localhost:3000"})
    assert reply.headers["access-control-allow-origin"] == "http://localhost:3000"
    assert server.post("/nope", {}, headers={"origin": "https://a.example"}).headers["access-control-allow-origin"]
    for other in ("https://b.example", "https://a.example.evil", "null"):
        assert "access-control-allow-origin" not in server.get("/health", headers={"origin": other}).headers
    assert "access-control-allow-origin" not in fake.get("/health", headers={"origin": "https://a.example"}).headers
    anyone = start("--cors-origin", "*")
    assert anyone.get("/health", headers={"origin": "https://b.example"}).headers["access-control-allow-origin"] == "*"


def test_preflight_needs_no_key(start):
    server = start("--cors-origin", "*", "--api-key", "k")
    reply = httpx.options(server.url + "/v1/models", headers={"origin": "https://a.example"}, timeout=PATIENCE_S)
    assert reply.status_code == 204
    reply = server.get("/v1/models", headers={"origin": "https://a.example"})
    assert reply.status_code == 401 and reply.headers["access-control-allow-origin"] == "*"


def test_drain_lets_streams_finish(start):
    server = start()
    idle = server.connect()
    with server.connect() as sock, sock.makefile("rb") as stream:
        sock.sendall(raw_post("/v1/completions", {"prompt": "@slow=20", "max_tokens": 40, "stream": True}))
        while b"data:" not in stream.readline():
            pass
        server.signal(signal.SIGTERM)
        assert idle.recv(1) == b""
        with pytest.raises(OSError):
            server.connect()
        rest = stream.read()
        assert b"[DONE]" in rest and rest.endswith(b"0\r\n\r\n")
    assert server.process.wait(PATIENCE_S) == 0


def test_a_second_signal_ends_at_once(start):
    server = start()
    with server.connect() as sock:
        sock.sendall(raw_post("/v1/completions", {"prompt": "@slow=1000", "max_tokens": 100, "stream": True}))
        sock.recv(100)
        server.signal(signal.SIGTERM)
        server.wait_draining()
        assert server.process.poll() is None
        server.signal(signal.SIGTERM)
        assert server.process.wait(PATIENCE_S) == 0
        rest = b""
        while piece := sock.recv(65536):
            rest += piece
        assert b'"code":"canceled"' in rest and b"[DONE]" not in rest


def test_comments_keep_a_slow_stream_open(start):
    server = start("--keep-alive", 0.02)
    text = server.post("/v1/completions", {"prompt": "@slow=700", "max_tokens": 2, "stream": True}).text
    assert text.count(": keep-alive\n\n") >= 2 and text.endswith("data: [DONE]\n\n")
    reply = server.post("/v1/completions", {"prompt": "@slow=500", "max_tokens": 2})
    assert reply.json()["usage"]["completion_tokens"] == 2
