"""The demonstration's page and a client that means it no good.

A server in a process of its own; after each test it must still restore a photograph, be no larger than a bound, and
have told nobody what its code looks like.
"""

import http.client
import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, closing
from io import BytesIO
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("gradio")

from mofme_jax.data.weather import severity_ranges
from mofme_jax.restoring import demo_limits as limits
from mofme_jax.restoring.demo_work import SEVERITIES

ROOT = Path(__file__).parents[2]
GROWTH = 400 << 20
"""Bytes by which the server may be larger after all this than it was after its first restoration."""

HELD_FILES = 60
SERVE = f"""
import sys, threading
import jax.numpy as jnp
from mofme_jax.restoring import demo_limits
from mofme_jax.restoring.demo import opened
from tests.fakes import Gain

demo_limits.HELD_FILES = {HELD_FILES}
with opened(Gain(), dict(gain=jnp.float32(1.0)), port=int(sys.argv[1]), max_megapixels=0.5, tile=32):
    print("open", flush=True)
    threading.Event().wait()
"""
HELLO = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n"


class Visitor:
    """A client with an address of its own, as a proxy before the page would name it, and a session."""

    numbers = count(1)

    def __init__(self, port: int, answers: list[bytes]):
        number = next(self.numbers)
        self.port, self.answers = port, answers
        self.headers = {"X-Forwarded-For": f"192.0.2.{number}"}
        self.session = f"session{number}"

    def ask(self, path: str, body=None, method: str | None = None, **headers: str) -> tuple[int, bytes]:
        """The status and the body of an answer."""
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)) as connection:
            connection._validate_path = lambda url: None  # which would keep us from misbehaving
            connection.request(method or ("GET" if body is None else "POST"), path, body, self.headers | headers)
            answer = connection.getresponse()
            self.answers.append(answer.read())
            return answer.status, self.answers[-1]

    def raw(self, sent: bytes, seconds: float = 30.0, line: bool = False) -> bytes:
        """What comes back for these bytes until the server closes the connection; or only until there is a line."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=seconds) as connection:
            got = b""
            try:
                connection.sendall(sent)
                while part := connection.recv(1 << 16):
                    got += part
                    if line and b"\r\n" in got:
                        break
            except (ConnectionError, TimeoutError):
                pass
        self.answers.append(got)
        return got

    def upload(self, content: bytes, name: str = "a.png") -> tuple[int, bytes]:
        return self.ask("/gradio_api/upload", form(content, name), **MULTIPART)

    def call(self, function: int, data: list, **fields) -> int:
        """The status of the answer to a call of one of the page's functions."""
        call = {"fn_index": function, "data": data, "session_hash": self.session, **fields}
        return self.ask("/gradio_api/queue/join", json.dumps(call), **{"Content-Type": "application/json"})[0]

    def outcome(self) -> dict:
        """What the function that was called last has given."""
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)) as connection:
            connection.request("GET", f"/gradio_api/queue/data?session_hash={self.session}", headers=self.headers)
            answer = connection.getresponse()
            while line := answer.readline():
                self.answers.append(line)
                message = json.loads(line[5:]) if line.startswith(b"data:") else {}
                if message.get("msg") == "process_completed":
                    return message
        raise AssertionError("the server said no more")

    def give(self, path: str) -> dict:
        file = {"path": path, "orig_name": "a.png", "meta": {"_type": "gradio.FileData"}}
        assert self.call(TAKE, [file]) == 200
        return self.outcome()

    def restore(self, weathers=(), seed: object = 0, **severities) -> dict:
        values = [severities.get(name, middle) for name, middle in SLIDERS.items()]
        assert self.call(RESTORE, [None, list(weathers), seed, *values]) == 200
        return self.outcome()


TAKE, RESTORE = 0, 5
SLIDERS = {name: sum(severity_ranges(weather)[name]) / 2 for weather, names in SEVERITIES.items() for name in names}
MULTIPART = {"Content-Type": "multipart/form-data; boundary=x"}


def form(content: bytes, name: str = "a.png") -> bytes:
    head = f'--x\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
    return head.encode() + content + b"\r\n--x--\r\n"


def picture(seed: int = 0, sides: tuple[int, int] = (40, 30)) -> bytes:
    """A PNG file of so many pixels."""
    file = BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*sides[::-1], 3), np.uint8)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[dict]:
    folder = tmp_path_factory.mktemp("temporary")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {"TMPDIR": str(folder), "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    with folder.with_suffix(".log").open("w") as log:
        command = [sys.executable, "-c", SERVE, str(port)]
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        assert process.stdout.readline() == "open\n", folder.with_suffix(".log").read_text()
        answers: list[bytes] = []
        served = {"port": port, "answers": answers, "folder": next(folder.glob("mofme-demo-*")), "process": process}
        works(Visitor(port, answers))
        yield served | {"size": size(process.pid)}
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def size(pid: int) -> int:
    """Bytes of memory that a process has."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def works(visitor: Visitor) -> None:
    """The page takes and restores a photograph."""
    status, said = visitor.upload(picture())
    assert status == 200, said
    assert visitor.give(json.loads(said)[0])["success"]
    done = visitor.restore()
    assert done["success"], done
    file = next(part for part in json.dumps(done).split('"') if part.endswith("a_restored.png"))
    status, restored = visitor.ask(f"/gradio_api/file={file}")
    assert status == 200
    with Image.open(BytesIO(restored)) as image:
        assert image.size == (40, 30)


@pytest.fixture
def visitor(server) -> Iterator[Visitor]:
    """A client; afterwards, the page is as it was."""
    yield Visitor(server["port"], server["answers"])
    assert server["process"].poll() is None
    works(Visitor(server["port"], server["answers"]))
    assert size(server["process"].pid) < server["size"] + GROWTH
    for answer in server["answers"]:
        for trace in (b"Traceback", b'File \\"', b'File "', b"site-packages", str(ROOT).encode(), b"Error:", b"root:x"):
            assert trace not in answer or b"<!doctype html>" in answer[:20].lower(), answer[:500]
    server["answers"].clear()


# files


@pytest.mark.parametrize(
    "before", ["/file=", "/gradio_api/file=", "/gradio_api/file/", "/static/", "/assets/", "/svelte/"]
)
def test_no_file_is_read_that_was_not_given_here(visitor, server, before):
    own = str(server["folder"])
    (server["folder"].parent / "secret.txt").write_text("root:x")
    for path in (
        "/etc/passwd",
        "//etc/passwd",
        "../../../../../../../../etc/passwd",
        "%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
        "%252e%252e/%252e%252e/%252e%252e/etc/passwd",
        f"{own}/../secret.txt",
        f"{own}/%2e%2e/secret.txt",
        f"{own}%2f..%2fsecret.txt",
        f"{own}/..%5csecret.txt",
        f"{own}",
        f"{own}/",
        f"{own}/*/a.png",
        f"{own}/a%00.png",
        f"{own}/%0d%0aX-Mine:%20yes",
        "\\\\192.0.2.1\\share\\a.png",
        "%5c%5c192.0.2.1%5cshare",
        "//192.0.2.1/share/a.png",
        "file:///etc/passwd",
        "http://127.0.0.1:1/a.png",
        "http%3a//169.254.169.254/latest/meta-data",
        f"{own}/{'a' * 1500}",
    ):
        status, _ = visitor.ask(before + path)
        assert status in (400, 403, 404), (before, path, status)


@pytest.mark.parametrize(
    "path",
    ["/etc/passwd", "{own}/../secret.txt", "http://127.0.0.1:{port}/", "https://example.com/a.png", "file:///etc"],
)
def test_no_call_names_what_lies_elsewhere(visitor, server, path):
    path = path.format(own=server["folder"], port=server["port"])
    for file in ({"path": path}, {"path": path, "meta": {"_type": "gradio.FileData"}}, {"url": path, "path": path}):
        assert visitor.call(TAKE, [file]) == 403
        assert visitor.call(TAKE, [None], event_data={"target": [file]}) == 403


@pytest.mark.parametrize(
    "path", ["{own}", "{own}/", "{own}/none/a.png", "{own}/" + 64 * "0" + "/a.png", "{own}/" + 900 * "a"]
)
def test_what_another_gave_is_not_found_by_guessing(visitor, server, path):
    file = {"path": path.format(own=server["folder"]), "orig_name": "a.png", "meta": {"_type": "gradio.FileData"}}
    if visitor.call(TAKE, [file]) == 200:
        visitor.outcome()
    assert not visitor.restore()["success"]  # nothing was taken


def test_an_address_is_not_fetched(visitor):
    with socket.create_server(("127.0.0.1", 0)) as trap:
        trap.settimeout(1)
        address = f"http://127.0.0.1:{trap.getsockname()[1]}/a.png"
        for file in (address, {"path": None, "url": address}, {"url": address}, {"path": "", "url": address}):
            if visitor.call(TAKE, [file]) == 200:
                visitor.outcome()
        with pytest.raises(TimeoutError):
            trap.accept()


# amounts


def test_a_file_over_the_limit_is_not_kept(visitor, server):
    assert visitor.upload(bytes(65 << 20))[0] == 413
    lying = b"POST /gradio_api/upload HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: multipart/form-data; boundary=x\r\n"
    assert b" 413 " in visitor.raw(lying + b"Content-Length: 99999999999\r\n\r\n" + form(b"a"), line=True)
    chunk = b"100000\r\n" + bytes(1 << 20) + b"\r\n"
    sent = lying + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(form(b"")[:-9]) + 70 * chunk
    assert b" 413 " in visitor.raw(sent, line=True)
    for length in (b"10", b"80", b"10\r\nContent-Length: 20"):
        assert b" 400 " in visitor.raw(lying + b"Content-Length: %s\r\n\r\n" % length + form(b"abc" * 99), line=True)


def chunked(part: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(part), part)


def test_an_upload_is_one_file(visitor, server):
    field = b'--x\r\nContent-Disposition: form-data; name="files"\r\n\r\n'
    for body in (
        field + bytes(60 << 20) + b"\r\n--x--\r\n",  # kept in memory, were it taken
        form(b"a")[:-6] + b"\r\n" + form(b"b"),
        b"".join(form(b"a")[:-4] + b"\r\n" for _ in range(1000)),
        b"--x\r\n\r\n",
        b"nonsense" * 1000,
        b"--x\r\n" + b"A: b\r\n" * 10_000,
        b"--x\r\nContent-Disposition: " + b"a" * 100_000,
    ):
        assert visitor.ask("/gradio_api/upload?upload_id=a", body, **MULTIPART)[0] == 400
    assert visitor.ask("/gradio_api/upload", b"{}", **{"Content-Type": "application/json"})[0] == 400
    assert visitor.ask("/gradio_api/upload", b"{}", **{"Content-Type": "multipart/form-data"})[0] == 400


@pytest.mark.parametrize(
    "name",
    ["../../../../tmp/a.png", "/etc/a.png", "..", ".", "", "a\\..\\b.png", 5000 * "a", "a\x00.png", "<b>.png", "&.png"],
)
def test_a_files_name_leads_nowhere(visitor, server, name):
    status, said = visitor.upload(picture(), name)
    assert status < 500, said
    if status == 200:
        path = Path(json.loads(said)[0])
        assert path.parent.parent == server["folder"]
        assert path.is_file()


def test_uploads_are_counted(visitor):
    statuses = [visitor.upload(picture())[0] for _ in range(limits.UPLOADS_A_MINUTE + 20)]
    assert statuses.count(200) <= 2 * limits.UPLOADS_A_MINUTE  # a minute may end in between
    status, said = visitor.upload(picture())
    assert status == 429 or 429 in statuses
    assert b"Traceback" not in said


def test_the_disk_is_not_filled(visitor, server):
    def files() -> list[Path]:
        return [path for path in server["folder"].rglob("*") if path.is_file()]

    for number in range(3 * HELD_FILES):
        if number % 20 == 0:
            visitor = Visitor(server["port"], server["answers"])
        assert visitor.upload(picture(number))[0] == 200
        assert len(files()) <= HELD_FILES + 1 + 7  # the one that has just come, and the page's own examples
    assert visitor.ask("/gradio_api/upload", form(b"a")[:-6], **MULTIPART)[0] == 400
    assert len([path for path in files() if path.name == "image.webp"]) == 7


def test_a_long_address_is_cut(visitor):
    """A proxy's word for it; a visitor's may be of any length, and is kept for a minute."""
    statuses = []
    for number in range(2 * limits.UPLOADS_A_MINUTE + 1):
        visitor.headers = {"X-Forwarded-For": 64 * "b" + str(number)}
        statuses.append(visitor.upload(picture())[0])
    assert 429 in statuses


def test_long_paths_and_questions_are_refused(visitor):
    assert visitor.ask("/config?" + limits.ADDRESS_BYTES * "a")[0] == 200
    assert visitor.ask("/config?" + limits.ADDRESS_BYTES * "a" + "a")[0] == 403
    assert visitor.ask("/assets/" + limits.ADDRESS_BYTES * "a")[0] == 403


def test_a_burst_of_calls_is_turned_away(visitor):
    began = time.monotonic()
    statuses = []

    def many() -> None:
        for _ in range(limits.CALLS_A_MINUTE // 4):
            statuses.append(visitor.ask("/gradio_api/queue/join", b"{}", **{"Content-Type": "application/json"})[0])

    threads = [threading.Thread(target=many) for _ in range(9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert time.monotonic() - began > 55 or statuses.count(429) > limits.CALLS_A_MINUTE // 5
    assert 500 not in statuses


def test_restorations_over_the_queues_length_are_turned_away(visitor, server):
    _, said = visitor.upload(picture(sides=(700, 700)))  # which takes longer than to ask for the next
    assert visitor.give(json.loads(said)[0])["success"]
    data = [None, [], 0, *SLIDERS.values()]
    statuses = [visitor.call(RESTORE, data) for _ in range(60)]
    assert set(statuses) == {200, 503}
    last = Visitor(server["port"], server["answers"])
    while last.call(RESTORE, data) == 503:
        time.sleep(0.5)
    last.outcome()  # those before have come to their end


def test_many_sessions_take_no_memory(visitor):
    for number in range(400):
        visitor.session = f"many{number}"
        assert visitor.call(4, [None, [], 0, *SLIDERS.values()]) in (200, 503)
    visitor.session = "a" * 60_000
    assert visitor.call(4, [None, [], 0, *SLIDERS.values()]) == 403
    visitor.session = ["a"]
    assert visitor.call(4, [None, [], 0, *SLIDERS.values()]) == 403


# time


def test_connections_that_say_nothing_shut_nobody_out(visitor, server):
    with ExitStack() as stack:
        slow = []
        for number in range(900):  # of a process's usual 1024 descriptors
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", server["port"]), timeout=30))
            slow.append(connection)
            connection.sendall((b"", b"G", HELLO, HELLO + b"X-A: ")[number % 4])
            if number % 100 == 99:
                began = time.monotonic()
                assert Visitor(server["port"], server["answers"]).ask("/config")[0] == 200
                assert time.monotonic() - began < 15
        descriptors = len(list(Path(f"/proc/{server['process'].pid}/fd").iterdir()))
        assert descriptors < 700
        end = time.monotonic() + 2 * limits.PATIENCE + 15
        while time.monotonic() < end and descriptors > 150:
            time.sleep(1)
            descriptors = len(list(Path(f"/proc/{server['process'].pid}/fd").iterdir()))
        assert descriptors < 150


def test_bodies_that_do_not_come_are_not_waited_for(visitor, server):
    head = b"POST /gradio_api/%s HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: %s\r\nContent-Length: 9999\r\n\r\n"
    upload = head % (b"upload", MULTIPART["Content-Type"].encode()) + form(b"a")[:-9]
    call = head % (b"queue/join", b"application/json") + b'{"data":'
    answers = []
    threads = [
        threading.Thread(target=lambda sent: answers.append(visitor.raw(sent, 4 * limits.PATIENCE)), args=[sent])
        for sent in [upload] * limits.UPLOADS_AT_ONCE + [call] * 8
    ]
    for thread in threads:
        thread.start()
    time.sleep(2)
    other = Visitor(server["port"], server["answers"])
    assert other.upload(picture())[0] == 503
    assert other.ask("/config")[0] == 200
    for thread in threads:
        thread.join()
    assert [b" 408 " in answer.split(b"\r\n")[0] for answer in answers] == [True] * len(threads)


def test_open_requests_of_one_address_are_bounded(visitor, server):
    with ExitStack() as stack:
        for number in range(limits.OPEN_REQUESTS):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", server["port"]), timeout=30))
            address = visitor.headers["X-Forwarded-For"].encode()
            connection.sendall(
                b"GET /gradio_api/heartbeat/s%d HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Forwarded-For: %s\r\n\r\n"
                % (number, address)
            )
            assert connection.recv(100).startswith(b"HTTP/1.1 200")
        assert visitor.ask("/config")[0] == 429
        assert Visitor(server["port"], server["answers"]).ask("/config")[0] == 200


# nonsense


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b"7",
        b'"a"',
        b"{}",
        b'{"data": 7}',
        b'{"data": [], "fn_index": "a"}',
        b'{"data": [], "fn_index": 99999999999999999999999, "session_hash": "a"}',
        b'{"data": [], "fn_index": -1, "session_hash": "a"}',
        b'{"data": [], "fn_index": 5}',
        b'{"data": [], "fn_index": 5, "session_hash": "a", "trigger_id": {}}',
        b"[" * 60_000,
        b'{"data": ' + b'{"a":' * 10_000 + b"1" + b"}" * 10_000 + b', "fn_index": 5, "session_hash": "a"}',
        b'{"data": [1e999, NaN, -Infinity], "fn_index": 5, "session_hash": "a"}',
        b'{"data": [' + b"9" * 5000 + b'], "fn_index": 5, "session_hash": "a"}',
        b'{"data": ["\\ud800"], "fn_index": 5, "session_hash": "\\ud800"}',
        b"\xff\xfe\x00",
        b"a" * (2 << 20),
    ],
)
@pytest.mark.parametrize("path", ["queue/join", "cancel", "reset"])
def test_a_call_of_nonsense_is_refused(visitor, path, body):
    status, said = visitor.ask(f"/gradio_api/{path}", body, **{"Content-Type": "application/json"})
    assert status < 500 or said == b"Internal Server Error"
    assert len(body) <= limits.CALL_BYTES or status == 403


@pytest.mark.parametrize(
    "value", [None, "a", "", True, [], {}, [[]], -1, 1e300, -1e300, float("nan"), float("inf"), 10**400]
)
def test_values_that_no_slider_has(visitor, value):
    status, said = visitor.upload(picture())
    visitor.give(json.loads(said)[0])
    data = [None, ["haze", "rain", "snow", "raindrop"], 0, *SLIDERS.values()]
    for place in range(1, len(data)):
        wrong = [*data[:place], value, *data[place + 1 :]]
        status = visitor.call(RESTORE, wrong)
        assert status < 500
        if status == 200:
            done = visitor.outcome()
            good = place == 2 or value is True or (place == 1 and not value)
            assert good or not done["success"], (place, done)
            if place > 2 and value != value:
                assert ", and goes from " in done["output"]["error"]
    for few in ([], data[:3], [*data, 0]):
        if visitor.call(RESTORE, few) == 200:
            visitor.outcome()


@pytest.mark.parametrize("index", [-1, 7, 10**30, 1.5, "a", None, [], {}, float("nan")])
def test_an_example_that_is_not_there(visitor, index):
    assert visitor.call(2, [], event_data={"index": index, "value": None}) < 500
    visitor.outcome()


def bomb(width: int, height: int, data: bytes = b"") -> bytes:
    """A PNG file that says to be so large."""

    def part(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    head = part(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    text = part(b"zTXt", b"a\0\0" + zlib.compress(bytes(200 << 20), 9))
    return (
        b"\x89PNG\r\n\x1a\n"
        + head
        + text
        + data
        + part(b"IDAT", zlib.compress(bytes(100 << 20), 9))
        + part(b"IEND", b"")
    )


@pytest.mark.parametrize("sides", [(30_000, 30_000), (1_000_000_000, 1), (700, 700), (0, 0), (2**31 - 1, 2**31 - 1)])
def test_a_bomb_is_not_unpacked(visitor, sides):
    status, said = visitor.upload(bomb(*sides))
    assert status == 200
    visitor.give(json.loads(said)[0])
    assert not visitor.restore()["success"]


def test_a_photograph_of_too_many_pixels_is_not_taken(visitor):
    status, said = visitor.upload(picture(sides=(800, 700)))
    assert status == 200
    visitor.give(json.loads(said)[0])
    assert not visitor.restore()["success"]


@pytest.mark.parametrize(
    "content", [b"", b"\x89PNG\r\n\x1a\n", b"GIF89a" + b"\xff" * 100, b"%PDF-1.4", b"<svg/>", b"MM\0*" + b"\xff" * 99]
)
def test_a_file_that_is_no_photograph(visitor, content):
    status, said = visitor.upload(content)
    assert status == 200
    visitor.give(json.loads(said)[0])
    assert not visitor.restore()["success"]


def test_a_wrong_host_or_site_is_refused(visitor):
    for host in (
        "evil.example",
        "127.0.0.1.evil.example",
        "[::1",
        "[",
        "a" * 5000,
        "",
        "127.0.0.1@evil.example",
        "\xff",
    ):
        assert visitor.ask("/", Host=host)[0] in (400, 403), host
    for site in ("cross-site", "same-site"):
        assert visitor.ask("/gradio_api/upload", form(picture()), **MULTIPART, **{"Sec-Fetch-Site": site})[0] == 403
    assert (
        visitor.ask("/gradio_api/upload", form(picture()), **MULTIPART, **{"Sec-Fetch-Site": "same-origin"})[0] == 200
    )


@pytest.mark.parametrize(
    "sent",
    [
        HELLO
        + b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: YQ==\r\n\r\n",
        HELLO + b"Connection: Upgrade\r\nUpgrade: h2c\r\nConnection: close\r\n\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        b"GET /config?" + b"a" * 10_000 + b" HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n",
        HELLO + b"X-A: " + b"a" * 100_000 + b"\r\n\r\n",
        HELLO + b"X-A: b\r\n" * 20_000 + b"\r\n",
        HELLO + b"\r\n" + b"\x00\xff garbage\r\n\r\n" * 100,
        (HELLO + b"\r\n") * 50 + b"POST / HTTP/9.9\r\n\r\n",
        b"POST /gradio_api/queue/join HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST /gradio_api/queue/join HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: -5\r\n\r\n{}",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET http://169.254.169.254/ HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n",
        b"CONNECT example.com:443 HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 100,
        b"\r\n" * 10_000,
    ],
)
def test_http_that_is_none(visitor, sent):
    answer = visitor.raw(sent)
    assert b" 500 " not in answer
    assert b" 101 " not in answer[:50]
