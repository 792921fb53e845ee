"""The demonstration: a page on this machine that takes weather off a photograph, and shows how.

Nothing leaves the machine: no analytics, no fonts or scripts from elsewhere, no link to share.
"""

import ipaddress
import os
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

from mofme_jax.evaluation.calibration import Calibration
from mofme_jax.restoring import demo_page
from mofme_jax.restoring.demo_page import build_page
from mofme_jax.restoring.demo_server import ImpatientProtocol
from mofme_jax.restoring.demo_work import warm_up
from mofme_jax.restoring.gate import Gate

MAX_FILE = "64mb"
"""Size of an uploaded file."""


def check(host: str, port: int, max_megapixels: float) -> None:
    """Says whether a page can be served so, before any long work starts.

    Raises:
      ValueError: the port is none, or no photograph is small enough.
      OSError: the port is in use, or the host is not this machine's.
    """
    if not max_megapixels > 0:
        raise ValueError(f"--max-megapixels {max_megapixels:g} leaves no photograph: give a number above 0")
    if not 1 <= port <= 65535:
        raise ValueError(f"--port {port} is no port: take one from 1024 to 65535")
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a page closed a moment ago does not count
            probe.bind(address)
    except OSError as error:
        raise OSError(f"no page can be opened at {host}, port {port}: {error.strerror}; try another --port") from None


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server bound to the host."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@contextmanager
def opened(
    model,
    params,
    *,
    calibrations: Mapping[str, Calibration] = MappingProxyType({}),
    host: str = "127.0.0.1",
    port: int = 7860,
    max_megapixels: float = 24.0,
    tile: int | None = None,
) -> Iterator[str]:
    """The page, served while the context lasts: its address.

    Uploads and results lie in a temporary folder, which is removed at the end. One restoration is done at a time.
    Arguments as for `serve` and `build_page`; raises as `check`.
    """
    from starlette.middleware import Middleware  # comes with Gradio

    check(host, port, max_megapixels)
    for name in ("no_proxy", "NO_PROXY"):  # Gradio calls its own server to see whether it is there
        os.environ[name] = ",".join(filter(None, [os.environ.get(name), host, "localhost"]))
    with tempfile.TemporaryDirectory(prefix="mofme-demo-", ignore_cleanup_errors=True) as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder = str(Path(folder).resolve())
        page = build_page(model, params, calibrations=calibrations, max_megapixels=max_megapixels, tile=tile)
        names = ("127.0.0.1", "localhost", "::1", host) if is_loopback(host) else None
        gate = Middleware(Gate, folder=folder, hosts=names)
        page.launch(
            server_name=f"[{host}]" if ":" in host else host,  # as it stands in an address
            server_port=port,
            prevent_thread_lock=True,
            quiet=True,
            inbrowser=False,
            share=False,
            show_error=False,  # what is not ours to say stays in the terminal
            max_file_size=MAX_FILE,
            allowed_paths=[],
            footer_links=[],
            run_history=False,
            enable_monitoring=False,
            mcp_server=False,
            pwa=False,
            ssr_mode=False,
            theme=demo_page.theme(),
            css=demo_page.CSS,
            app_kwargs={"middleware": [gate], "docs_url": None, "redoc_url": None, "openapi_url": None},
        )
        page.server.config.http_protocol_class = ImpatientProtocol  # of connections from now on
        try:
            yield page.local_url or ""
        finally:
            page.close(verbose=False)


def serve(
    model,
    params,
    *,
    calibrations: Mapping[str, Calibration] = MappingProxyType({}),
    host: str = "127.0.0.1",
    port: int = 7860,
    max_megapixels: float = 24.0,
    tile: int | None = None,
) -> None:
    """Serves the page until it is interrupted, after compiling the network; for the main thread.

    Args:
      model, params: a trained restorer, see `mofme_jax.load`.
      calibrations: of the network, see `mofme_jax.restoring.doubt`.
      host: where to listen; everyone who can reach an address other than the loopback's can use the page.
      port: of the address.
      max_megapixels: millions of pixels an uploaded photograph may have.
      tile: pixels on a tile's side; None: the default.

    Raises:
      ValueError, OSError: see `check`.
      KeyboardInterrupt: when it is interrupted, after the server is closed.
    """
    check(host, port, max_megapixels)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what visitors gave is removed then as well
    if not is_loopback(host):
        print(f"warning: everyone who can reach {host} can use this page; it asks for no password", flush=True)
    print("compiling the network ...", flush=True)
    warm_up(model, params, tile)
    page = opened(
        model, params, calibrations=calibrations, host=host, port=port, max_megapixels=max_megapixels, tile=tile
    )
    with page as url:
        print(f"open {url} in a browser; Ctrl-C ends it", flush=True)
        threading.Event().wait()
