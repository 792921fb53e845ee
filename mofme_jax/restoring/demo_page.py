"""The demonstration's page: what is on it, and what its buttons do. `mofme_jax.restoring.demo` serves it."""

import html
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # before Gradio is imported: it asks for newer versions of itself
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
try:  # only who asks for the page needs the package
    import gradio as gr
except ImportError as error:
    raise ImportError("the demonstration's page needs Gradio: pip install 'mofme-jax[demo]'") from error

from mofme_jax.data.photos import SUFFIXES, embedded_photographs
from mofme_jax.data.weather import WEATHERS, severity_ranges
from mofme_jax.evaluation.calibration import Calibration
from mofme_jax.restoring import demo_work as work

WAITING = 8
"""Visitors' restorations that wait for the one that is being done; more are turned away."""

CSS = """
.gradio-container { max-width: 1240px !important; margin: 0 auto !important }
footer { display: none !important }
#title h1 { margin-bottom: .2em }
#title p { opacity: .75 }
#examples .grid-wrap { padding-top: 34px; max-height: none; overflow: hidden }
#examples .grid-container { grid-template-columns: repeat(auto-fit, minmax(0, 1fr)) }
#experts .grid-wrap { padding-top: 34px; max-height: none; min-height: 0; overflow: hidden }
#experts .thumbnail-lg { aspect-ratio: auto }
#restore { font-size: 1.1em }
.note { opacity: .85 }
.swatch { display: inline-block; width: 1em; height: 1em; margin: 0 .4em 0 .9em; vertical-align: -.15em;
          border-radius: 3px }
.scale { display: inline-block; width: 8em; height: .8em; margin: 0 .5em; border-radius: 3px; vertical-align: -.05em;
         border: 1px solid #8888 }
"""
_INTRODUCTION = """# Photographs without the weather
Give a photograph taken in haze, rain or snow, or put weather on a clean one. The network runs on this computer; nothing
is sent anywhere else.
"""


def build_page(
    model,
    params,
    *,
    calibrations: Mapping[str, Calibration] = MappingProxyType({}),
    max_megapixels: float = 24.0,
    tile: int | None = None,
) -> gr.Blocks:
    """The page, not yet served.

    Args:
      model, params: a trained restorer, see `mofme_jax.load`.
      calibrations: of the network, see `mofme_jax.restoring.doubt`.
      max_megapixels: millions of pixels an uploaded photograph may have.
      tile: pixels on a tile's side; None: the default.
    """
    examples = embedded_photographs("validation") | embedded_photographs("train")

    def photograph(source: str | None):
        """The photograph named by an example's name or an upload's path."""
        if source is None:
            raise gr.Error("Give a photograph first, or pick an example.", print_exception=False)
        try:
            return examples[source] if source in examples else work.open_photograph(source, max_megapixels)
        except ValueError as error:
            raise gr.Error(html.escape(str(error)), print_exception=False) from None

    def weathered(source, weathers, seed, values):
        names = [name for part in work.SEVERITIES.values() for name in part]
        given = photograph(source)
        try:
            return work.with_weather(given, weathers, seed or 0, dict(zip(names, values, strict=True)))
        except ValueError as error:
            raise gr.Error(html.escape(str(error)), print_exception=False) from None

    def take_upload(path):
        """A file that is no photograph is put back with a warning: it must not look as if it were taken."""
        try:
            if path is not None:
                photograph(path)
        except gr.Error as error:
            gr.Warning(error.message)
            return None, None
        return path, gr.skip()

    def take_example(event: gr.SelectData):
        return list(examples)[event.index], None

    def show(source, weathers, seed, *values):
        shown = None if source is None else work.shrunk(weathered(source, weathers, seed, values)[1], work.SHOWN_SIDE)
        return gr.Image(shown, visible=True), gr.Column(visible=False), gr.Row(visible=False)

    def restore(source, weathers, seed, *values, progress=gr.Progress()):  # noqa: B008  Gradio finds it there
        def tell(done: int, total: int) -> None:
            if not page.is_running:  # a thread at work would keep the process from ending
                raise gr.Error("The page was closed.", print_exception=False)
            progress((done, total), desc="restoring", unit="tiles")

        yield {preview: gr.Image(visible=True), results: gr.Column(visible=False), maps: gr.Row(visible=False)}
        progress(0.0, desc="preparing the photograph")
        clean, degraded = weathered(source, weathers, seed, values)
        outcome = work.restoration(model, params, clean, degraded, calibrations=calibrations, tile=tile, progress=tell)
        folder = Path(tempfile.mkdtemp(dir=download.GRADIO_CACHE))  # which the server hands out files of
        file = work.save_png(outcome.restored, folder / f"{Path(source).stem}_restored.png")
        yield {
            preview: gr.Image(visible=False),
            results: gr.Column(visible=True),
            maps: gr.Row(visible=outcome.doubt is not None or bool(outcome.experts)),
            slider: tuple(work.shrunk(image, work.SHOWN_SIDE) for image in (degraded, outcome.restored)),
            facts: outcome.facts,
            download: str(file),
            doubt: gr.Image(outcome.doubt, visible=outcome.doubt is not None),
            doubt_legend: outcome.doubt_legend,
            experts: gr.Gallery(outcome.experts, columns=min(2, len(outcome.experts)), visible=bool(outcome.experts)),
            experts_legend: outcome.experts_legend,
        }

    with gr.Blocks(title="mofme: photographs without the weather", analytics_enabled=False) as page:
        source = gr.State(None)
        gr.Markdown(_INTRODUCTION, elem_id="title")
        with gr.Row(equal_height=True):
            upload = gr.File(
                label=f"Photograph, up to {max_megapixels:g} megapixels",
                file_types=list(SUFFIXES),
                height=150,
                scale=2,
                elem_id="upload",
            )
            pick = gr.Gallery(
                [work.shrunk(image, 300) for image in examples.values()],
                label="or a clean example",
                columns=len(examples),
                height=150,
                scale=3,
                allow_preview=False,
                object_fit="cover",
                buttons=[],
                elem_id="examples",
            )
        with gr.Row():
            with gr.Column(scale=2, min_width=340):
                weathers = gr.CheckboxGroup(list(WEATHERS), label="Weather to put on it", elem_id="weathers")
                sliders, rows = [], []
                for weather, names in work.SEVERITIES.items():
                    with gr.Row(visible=False) as row:
                        sliders += [_slider(weather, name, label) for name, label in names.items()]
                    rows.append(row)
                seed = gr.Number(0, label="seed of all else", precision=0, visible=False, elem_id="seed")
                button = gr.Button("Restore", variant="primary", elem_id="restore")
            with gr.Column(scale=3, min_width=480):
                preview = gr.Image(
                    label="To be restored", interactive=False, height=420, buttons=[], format="png", elem_id="given"
                )
                with gr.Column(visible=False) as results:
                    slider = gr.ImageSlider(
                        label="Given | restored",
                        interactive=False,
                        format="png",
                        buttons=["fullscreen"],
                        max_height=640,
                        elem_id="result",
                    )
                    with gr.Row():
                        facts = gr.HTML(elem_id="facts")
                        download = gr.DownloadButton("Download", size="md", scale=0, min_width=130, elem_id="download")
        with gr.Row(visible=False) as maps:
            with gr.Column(scale=1, min_width=300):
                doubt = gr.Image(label="Where it may be wrong", buttons=[], format="png", elem_id="doubt")
                doubt_legend = gr.HTML(elem_id="doubt-legend", elem_classes="note")
            with gr.Column(scale=2, min_width=480):
                experts = gr.Gallery(
                    label="Which expert takes which token", buttons=[], format="png", height="auto", elem_id="experts"
                )
                experts_legend = gr.HTML(elem_id="experts-legend", elem_classes="note")

        given: list[Any] = [source, weathers, seed, *sliders]
        hidden: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        upload.upload(take_upload, upload, [source, upload], **hidden)
        upload.clear(lambda: None, None, source, **hidden)
        pick.select(take_example, None, [source, upload], **hidden)
        weathers.change(_shown_for, weathers, [*rows, seed], **hidden)
        gr.on(
            [component.change for component in given],
            show,
            given,
            [preview, results, maps],
            api_visibility="private",
            show_progress="minimal",
            trigger_mode="always_last",
        )
        button.click(
            restore,
            given,
            [preview, results, slider, facts, download, maps, doubt, doubt_legend, experts, experts_legend],
            api_visibility="private",
            show_progress_on=preview,
        )
    return page.queue(max_size=WAITING, default_concurrency_limit=1, api_open=False)


def _slider(weather: str, name: str, label: str) -> gr.Slider:
    low, high = severity_ranges(weather)[name]
    return gr.Slider(low, high, (low + high) / 2, label=label, min_width=150, buttons=[], elem_id=name)


def _shown_for(weathers: list[str]) -> list:
    """Updates of the rows of sliders and of the seed: visible are those of the weathers chosen."""
    rows = [gr.Row(visible=weather in weathers) for weather in work.SEVERITIES]
    return [*rows, gr.Number(visible=bool(weathers))]


def theme() -> gr.themes.Base:
    """Of fonts that the visitor's system has."""
    return gr.themes.Default(
        primary_hue="sky",
        neutral_hue="slate",
        font=("Segoe UI", "Helvetica Neue", "Roboto", "sans-serif"),
        font_mono=("monospace",),
    )
