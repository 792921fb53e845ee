"""The demonstration: what is behind its page, its gate, the real command, and the page in a real browser.

The tests of the page are skipped without Gradio, selenium, chromium and chromedriver; with MOFME_REQUIRE_BROWSER set
they fail instead.
"""

import asyncio
import importlib.util
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from mofme_jax import build
from mofme_jax.cli import main
from mofme_jax.data.weather import WEATHERS, severity_ranges
from mofme_jax.evaluation.calibration import Calibration, Curve
from mofme_jax.restoring import demo_work as work
from mofme_jax.restoring.gate import Gate
from tests.fakes import Gain

ROOT = Path(__file__).parents[2]
SIZE = (90, 130)
"""Height and width of the photograph that is uploaded."""


def need(*things: str) -> None:
    """Skips the test without these modules and programs, or fails it where they are required."""
    missing = [name for name in things if not (shutil.which(name) or importlib.util.find_spec(name))]
    if missing:
        (pytest.fail if os.environ.get("MOFME_REQUIRE_BROWSER") else pytest.skip)(f"without {', '.join(missing)}")


def photograph(height: int = SIZE[0], width: int = SIZE[1]) -> np.ndarray:
    """Smooth and colourful: (height, width, 3) uint8."""
    y, x = np.mgrid[:height, :width] / max(height, width)
    return np.round(np.stack([x, y, 0.5 + 0.4 * np.sin(9 * x * y)], -1) * 255).astype(np.uint8)


# what is behind the page


def test_an_upload_is_read(tmp_path):
    Image.fromarray(photograph()).save(tmp_path / "a.png")
    np.testing.assert_array_equal(work.open_photograph(tmp_path / "a.png", 24), photograph())


def test_a_large_photograph_is_refused_by_its_header(tmp_path, monkeypatch):
    Image.fromarray(photograph()).save(tmp_path / "large.png")
    monkeypatch.setattr(work, "read_photograph", lambda _: pytest.fail("the pixels were read"))
    with pytest.raises(ValueError, match=r"^large.png has 130 x 90 = 0.0 megapixels, and this page takes 0.01"):
        work.open_photograph(tmp_path / "large.png", 0.01)


def test_a_wrong_file_is_named_without_its_folder(tmp_path):
    (tmp_path / "notes.jpg").write_text("no photograph")
    with pytest.raises(ValueError, match=r"^notes.jpg cannot be read") as caught:
        work.open_photograph(tmp_path / "notes.jpg", 24)
    assert str(tmp_path) not in str(caught.value)
    with pytest.raises(ValueError, match=r"^gone.jpg is no longer here"):
        work.open_photograph(tmp_path / "gone.jpg", 24)


def test_without_weather_nothing_is_done():
    large = photograph(40, 2000)
    clean, degraded = work.with_weather(large, [], 0, {})
    assert clean is large
    assert degraded is large


def test_weather_is_put_on_a_smaller_photograph():
    clean, degraded = work.with_weather(photograph(100, 2048), ["haze"], 0, {"beta": 1.0})
    assert clean.shape == degraded.shape == (50, 1024, 3)
    assert degraded.dtype == np.uint8
    assert np.abs(clean.astype(int) - degraded).mean() > 10


def test_weather_is_what_the_sliders_and_the_seed_say():
    def degraded(weathers, seed, **severities):
        return work.with_weather(photograph(), weathers, seed, severities)[1]

    thin, dense = (degraded(["haze"], 0, beta=beta, airlight=1.0) for beta in (0.3, 1.45))
    assert dense.mean() > thin.mean() + 5
    np.testing.assert_array_equal(degraded(["haze"], 0, beta=0.3, airlight=1.0, rain_density=0.7), thin)
    assert (degraded(["haze"], -1, beta=0.3, airlight=1.0) != thin).any()
    both = {"beta": 0.5, "rain_density": 0.7}
    np.testing.assert_array_equal(degraded(["rain", "haze"], 0, **both), degraded(["haze", "rain"], 0, **both))


def test_the_sliders_are_severities_of_their_weather():
    assert tuple(work.SEVERITIES) == WEATHERS
    for weather, names in work.SEVERITIES.items():
        assert set(names) <= set(severity_ranges(weather))


def test_small_pictures_are_not_made_smaller():
    image = photograph()
    assert work.shrunk(image, 130) is image
    assert work.shrunk(image, 65).shape == (45, 65, 3)


def test_the_psnr_stands_there_where_the_truth_is_known():
    clean = photograph()
    params = {"gain": jnp.float32(2.0)}
    outcome = work.restoration(Gain(), params, clean, clean // 2, tile=32)
    assert outcome.restored.shape == clean.shape
    assert "with the weather" in outcome.facts
    assert "130 x 90 px" in outcome.facts
    assert "PSNR" not in work.restoration(Gain(), params, clean, clean, tile=32).facts


def test_a_network_without_routers_has_no_maps():
    outcome = work.restoration(Gain(), {"gain": jnp.float32(1.0)}, photograph(), photograph(), tile=32)
    assert outcome.doubt is None
    assert outcome.experts == []


@pytest.fixture(scope="module")
def mixture():
    """An untrained network with four experts: the model and its parameters."""
    model = build("tiny", num_experts=4, top_k=2)
    return model, jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))["params"]


def test_the_maps_are_as_large_as_the_photograph(mixture):
    told = []
    outcome = work.restoration(
        *mixture, photograph(), photograph(), tile=64, progress=lambda done, total: told.append((done, total))
    )
    assert outcome.doubt.shape == outcome.experts[0][0].shape == (*SIZE, 3)
    assert len(outcome.experts) == len({caption for _, caption in outcome.experts}) > 0
    assert re.fullmatch(
        r"[\d.e-]+<span .*linear-gradient\(.*#000000, .*#ffffff\)\"></span>[\d.e-]+ nats.*", outcome.doubt_legend
    )
    assert "expert " in outcome.experts_legend
    done, total = told[-1]
    assert done == total > 1


def test_with_a_calibration_doubt_is_expected_error(mixture):
    curve = Curve({"change": 1.0}, (-10.0, 0.0), (0.0, 0.1))
    found = Calibration(curve, 0.08, 4, 2, 10, 0, True, 0.5, 0.5, {}, 0.01, 0.03)
    outcome = work.restoration(*mixture, photograph(), photograph(), calibrations={"routing": found}, tile=64)
    assert outcome.doubt.shape == (*SIZE, 3)
    assert re.fullmatch(r"0<span .*></span>20\.4 levels of 255, the error to expect", outcome.doubt_legend)


def test_large_maps_are_shown_smaller(mixture, monkeypatch):
    monkeypatch.setattr(work, "SHOWN_SIDE", 70)
    outcome = work.restoration(*mixture, photograph(), photograph(), tile=64)
    assert outcome.restored.shape == (*SIZE, 3)
    assert outcome.doubt.shape == outcome.experts[0][0].shape == (45, 65, 3)


def test_a_legend_of_many_experts_is_cut(mixture, monkeypatch):
    monkeypatch.setattr(work, "LEGEND", 1)
    outcome = work.restoration(*mixture, photograph(), photograph(), tile=64)
    taken = int(re.search(r"and (\d) more$", outcome.experts_legend)[1]) + 1
    assert 2 <= taken <= 4


def test_text_of_a_legend_is_no_markup():
    assert "&lt;b&gt;" in work.legend([(np.array([255, 0, 16], np.uint8), "<b>")])
    assert "#ff0010" in work.legend([(np.array([255, 0, 16], np.uint8), "x")])


# the gate


def through(
    path: str, *, body: bytes = b"{}", host: str = "127.0.0.1:7860", hosts=("127.0.0.1", "::1"), headers=()
) -> int:
    """The status of a request to an application that answers everything, behind the gate."""
    sent, read = [], []

    async def application(scope, receive, send):
        read.append((await receive())["body"])
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def receive():
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "path": path, "headers": [(b"host", host.encode()), *headers]}
    asyncio.run(Gate(application, "/tmp/own", hosts)(scope, receive, send))
    if sent[0]["status"] == 200:
        assert read == [body]
    return sent[0]["status"]


@pytest.mark.parametrize(
    "path", ["/", "/config", "/assets/index.js", "/gradio_api/queue/join", "/gradio_api/file=/tmp/own/a/b.png"]
)
def test_the_gate_lets_through_what_the_page_needs(path):
    assert through(path) == 200


def test_the_gate_lets_a_file_through():
    need("gradio")
    body = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\na\r\n--x--\r\n'
    form = [(b"content-type", b"multipart/form-data; boundary=x")]
    assert through("/gradio_api/upload", body=body, headers=form) == 200
    assert through("/gradio_api/upload", body=body) == 400


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/file=/tmp/owner/a.png",
        "/gradio_api/file=http://example.com/a.png",
        "/gradio_api/proxy=http://example.com/a.png",
        "/gradio_api/info",
        "/gradio_api/openapi.json",
        "/gradio_api/call/restore",
        "/gradio_api/run/predict",
        "/gradio_api/api/predict",
        "/gradio_api/component_server",
        "/gradio_api/process_recording",
        "/gradio_api/vibe-code",
        "/monitoring/summary",
        "/docs",
        "/openapi.json",
    ],
)
def test_the_gate_refuses_what_the_page_does_not_need(path):
    assert through(path) == 403


@pytest.mark.parametrize("path", ["/etc/passwd", "http://example.com/a.png", "", 7, ["/tmp/own/a.png"]])
def test_a_call_names_files_of_the_folder_only(path):
    def call(path):
        return json.dumps({"data": [None, [{"x": {"path": path, "meta": {"_type": "gradio.FileData"}}}]]}).encode()

    assert through("/gradio_api/queue/join", body=call(path)) == 403
    assert through("/gradio_api/queue/join", body=call("/tmp/own/a.png")) == 200


@pytest.mark.parametrize("body", [b"", b"{", b'{"a": "' + b"x" * (1 << 20) + b'"}', b"[" * 100_000])
def test_a_call_that_is_none_is_refused(body):
    assert through("/gradio_api/queue/join", body=body) == 403


def test_the_gate_opens_no_websocket():
    sent = []

    async def send(message):
        sent.append(message)

    gate = Gate(lambda *_: pytest.fail("it was opened"), "/tmp/own", None)
    asyncio.run(gate({"type": "websocket", "path": "/", "headers": []}, None, send))
    assert sent == [{"type": "websocket.close"}]


def test_another_sites_name_for_this_machine_is_refused():
    assert through("/", host="evil.example:7860") == 403
    assert through("/", host="127.0.0.1.evil.example") == 403
    assert through("/", host="[::1]:7860") == 200
    assert through("/", host="evil.example", hosts=None) == 200


# the command


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_without_gradio_the_remedy_is_said(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradio", None)
    for name in ("demo", "demo_page"):
        monkeypatch.delitem(sys.modules, f"mofme_jax.restoring.{name}", raising=False)
    assert main(["demo"]) == 2
    error = capsys.readouterr().err
    assert error == "mofme: the demonstration's page needs Gradio: pip install 'mofme-jax[demo]'\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--port", "0"], "--port 0 is no port"),
        (["--port", "65536"], "--port 65536 is no port"),
        (["--host", "192.0.2.1"], "no page can be opened at 192.0.2.1, port "),
        (["--host", "no.such.host.invalid"], "no page can be opened at no.such.host.invalid"),
        (["--max-megapixels", "0"], "--max-megapixels 0"),
        (["--max-megapixels", "nan"], "--max-megapixels nan"),
        (["--weights", "/no/such/run"], "/no/such/run"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(arguments, message, capsys):
    need("gradio")
    assert main(["demo", "--port", str(free_port()), *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("mofme: ")
    assert error.count("\n") == 1
    assert message in error


def test_a_port_in_use_is_said_in_a_line(capsys):
    need("gradio")
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert main(["demo", "--port", str(port)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"mofme: no page can be opened at 127.0.0.1, port {port}: ")
    assert error.count("\n") == 1


def test_only_addresses_of_this_machine_alone_are_loopback():
    need("gradio")
    from mofme_jax.restoring.demo import is_loopback

    assert [is_loopback(host) for host in ("127.0.0.1", "127.0.0.9", "::1", "localhost")] == [True] * 4
    assert [is_loopback(host) for host in ("0.0.0.0", "::", "192.168.1.2", "example.com")] == [False] * 4


WATCH = """
import os, sys

def watch(event, arguments):
    if event in ("socket.connect", "socket.sendto", "socket.getaddrinfo"):
        address = arguments[0] if event == "socket.getaddrinfo" else arguments[1]
        with open(os.environ["CALLED"], "a") as file:
            print(address[0] if isinstance(address, tuple) else address, file=file)

sys.addaudithook(watch)
"""
"""A module that Python imports at its start: it writes down whom the process calls."""


@pytest.fixture(scope="module")
def served(finished_run, tmp_path_factory):
    """The real command on a free port: its address, its process, and the folder for its temporary files."""
    need("gradio")
    folder = tmp_path_factory.mktemp("temporary")
    log = folder.with_suffix(".log")
    port = free_port()
    command = [sys.executable, "-m", "mofme_jax", "demo", f"--weights={finished_run[0]}", f"--port={port}"]
    watch = tmp_path_factory.mktemp("watch")
    (watch / "sitecustomize.py").write_text(WATCH)
    environment = os.environ | {
        "TMPDIR": str(folder),
        "PYTHONPATH": f"{watch}{os.pathsep}{ROOT}",
        "CALLED": str(watch / "called"),
        "HTTP_PROXY": "http://127.0.0.1:9",  # nobody is there: a request to another host would fail
        "HTTPS_PROXY": "http://127.0.0.1:9",
    }
    with log.open("w") as stream:
        # tests that a script runs in its background ignore Ctrl-C, and what they start would as well
        ignored = signal.signal(signal.SIGINT, signal.default_int_handler)
        process = subprocess.Popen(
            [*command, "--max-megapixels=0.5"], cwd=folder, env=environment, stdout=stream, stderr=stream
        )
        signal.signal(signal.SIGINT, ignored)
    try:
        wait(lambda: "open http" in log.read_text() or process.poll() is not None, 180)
        assert process.poll() is None, log.read_text()
        yield SimpleNamespace(
            url=f"http://127.0.0.1:{port}/", process=process, folder=folder, log=log, called=watch / "called"
        )
    finally:
        process.kill()
        process.wait()


def wait(condition, seconds: float = 60.0):
    """What `condition` gives as soon as it gives something."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.05)
    raise TimeoutError


def status(url: str, data: bytes | None = None, **headers: str) -> int:
    request = urllib.request.Request(url, data, {"Content-Type": "application/json", **headers})
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=20) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def test_the_server_hands_out_no_files_of_others(served):
    assert status(served.url) == 200
    for path in ("/etc/passwd", f"{next(served.folder.iterdir())}/../../../../../../../../etc/passwd", str(ROOT)):
        assert status(f"{served.url}gradio_api/file={path}") == 403
    call = {"data": [{"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}], "fn_index": 0, "session_hash": "a"}
    assert status(f"{served.url}gradio_api/queue/join", json.dumps(call).encode()) == 403
    assert status(f"{served.url}gradio_api/info") == 403
    assert status(served.url, Host="evil.example") == 403


def test_a_file_that_is_too_large_is_not_taken(served):
    boundary = b"--x\r\nContent-Disposition: form-data; name=files; filename=a.png\r\n\r\n"
    body = boundary + bytes(65 << 20) + b"\r\n--x--\r\n"
    assert status(f"{served.url}gradio_api/upload", body, **{"Content-Type": "multipart/form-data; boundary=x"}) == 413


# the page in a browser


@pytest.fixture(scope="module")
def downloads(tmp_path_factory):
    """Where the browser puts them."""
    return tmp_path_factory.mktemp("downloads")


@pytest.fixture(scope="module")
def browser(downloads):
    need("selenium", "chromium", "chromedriver")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1280,1400"):
        options.add_argument(argument)
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    driver = webdriver.Chrome(options, Service(shutil.which("chromedriver")))
    yield driver
    driver.quit()


class Page:
    """The page as its visitor uses it."""

    def __init__(self, browser, url: str):
        self.browser = browser
        browser.get(url)
        self.sizes("#examples img")

    def click(self, selector: str, index: int = 0) -> None:
        self.browser.find_elements("css selector", selector)[index].click()

    def text(self, selector: str) -> str | None:
        """Of the first element there, as it is seen; None where there is none to be seen."""
        script = "const e = document.querySelector(arguments[0]); return e && e.offsetParent ? e.innerText : null"
        return self.browser.execute_script(script, selector)

    def give(self, path: Path) -> None:
        """Uploads a file."""
        wait(lambda: self.browser.find_elements("css selector", "#upload input[type=file]"))[0].send_keys(str(path))

    def sizes(self, selector: str) -> list[tuple[int, int]]:
        """(H, W) of the pictures there, once they have arrived."""
        script = "return [...document.querySelectorAll(arguments[0])].map(i => [i.naturalHeight, i.naturalWidth])"

        def arrived():
            sizes = self.browser.execute_script(script, selector)
            return sizes if sizes and all(map(all, sizes)) else None

        return [tuple(size) for size in wait(arrived)]

    def restore(self) -> str:
        """Presses the button; what is said of the result."""
        self.click("#restore")
        return wait(lambda: " px" in (said := self.text("#facts") or "") and said, 120)

    def message(self) -> str:
        """What the page complains of."""
        return wait(lambda: self.text(".toast-body"))

    def requests(self) -> list[str]:
        """Addresses that were asked for over a network since the last time."""
        entries = [json.loads(entry["message"])["message"] for entry in self.browser.get_log("performance")]
        sent = [e["params"]["request"]["url"] for e in entries if e["method"] == "Network.requestWillBeSent"]
        return [url for url in sent if not url.startswith(("data:", "blob:"))]


@pytest.fixture
def page(browser, served):
    return Page(browser, served.url)


@pytest.fixture
def upload(tmp_path):
    Image.fromarray(photograph()).save(tmp_path / "holiday.png")
    return tmp_path / "holiday.png"


def test_an_upload_is_restored_and_can_be_downloaded(page, upload, downloads):
    page.give(upload)
    assert page.sizes("#given img") == [SIZE]
    facts = page.restore()
    assert "130 x 90 px" in facts
    assert "PSNR" not in facts
    assert page.sizes("#result img") == [SIZE, SIZE]
    assert page.sizes("#doubt img") == [SIZE]
    assert set(page.sizes("#experts img")) == {SIZE}
    assert "levels of 255" in page.text("#doubt-legend")  # the run is calibrated
    assert "expert" in page.text("#experts-legend")
    page.click("#download")
    file = downloads / "holiday_restored.png"
    wait(file.exists)
    with Image.open(file) as restored:
        assert restored.size == SIZE[::-1]
        np.testing.assert_array_less(np.abs(np.asarray(restored).astype(int) - photograph()).mean(), 100)


def test_weather_is_put_on_an_example_and_taken_off(page):
    page.click("#examples img", 1)
    page.sizes("#given img")
    page.click("#weathers input")
    wait(lambda: page.text("#beta") is not None)
    assert page.text("#rain_density") is None
    facts = page.restore()
    assert "PSNR" in facts
    assert "741 x 500 px" in facts
    assert page.sizes("#result img") == [(500, 741)] * 2


def test_a_changed_photograph_puts_the_old_result_away(page, upload):
    page.click("#examples img")
    page.sizes("#given img")
    page.restore()
    page.give(upload)
    wait(lambda: page.text("#result") is None)
    assert page.sizes("#given img") == [SIZE]


def test_restoring_nothing_is_said(page):
    page.click("#restore")
    assert "Give a photograph first" in page.message()
    page.click("#examples img")  # and the page goes on
    page.sizes("#given img")
    page.restore()


def test_a_wrong_file_gives_a_message_and_no_traceback(page, tmp_path, served):
    (tmp_path / "notes.jpg").write_text("no photograph at all")
    page.give(tmp_path / "notes.jpg")
    assert "notes.jpg cannot be read as a photograph" in page.message()
    assert str(served.folder) not in page.message()
    assert "Traceback" not in page.browser.page_source
    assert "Traceback" not in served.log.read_text()


def test_a_large_photograph_gives_a_message(page, tmp_path):
    Image.fromarray(photograph(800, 1000)).save(tmp_path / "large.png")
    page.give(tmp_path / "large.png")
    assert "large.png has 1000 x 800 = 0.8 megapixels, and this page takes 0.5" in page.message()


def test_no_request_leaves_the_machine(browser, served, upload):
    browser.get_log("performance")
    page = Page(browser, served.url)
    page.give(upload)
    page.restore()
    asked = page.requests()
    assert len(asked) > 20
    assert {urlsplit(url).hostname for url in asked} == {"127.0.0.1"}
    assert set(served.called.read_text().split()) == {"127.0.0.1"}


def test_an_interrupt_ends_it_cleanly(served):
    """The last test: a browser may still be there. What visitors gave is removed."""
    assert list(served.folder.glob("mofme-demo-*"))
    served.process.send_signal(signal.SIGINT)
    assert served.process.wait(90) == 130
    assert served.log.read_text().endswith("mofme: stopped\n")
    assert "Traceback" not in served.log.read_text()
    assert not list(served.folder.glob("mofme-demo-*"))
