"""`mofme atlas`: what the experts of a trained network do, as a page to look at."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from mofme_jax.commands.arguments import RUN, add_weights, load_weights, path

if TYPE_CHECKING:
    import numpy as np

MOST = 6
"""Photographs that are taken of a run's own."""


def add(groups) -> None:
    """Adds the command to the parser's groups of commands."""
    atlas = groups.add_parser(
        "atlas",
        help="show what the experts of a trained network do",
        description="Writes one HTML page: which expert takes which token, in which weather, and what is lost without "
        f"it. Without photographs, the first {MOST} that the run is judged on are taken; of weights without a run, the "
        "embedded ones.",
        allow_abbrev=False,
    )
    atlas.set_defaults(run=_atlas)
    atlas.add_argument(
        "photographs",
        type=path,
        nargs="*",
        metavar="IMAGE",
        help="clean photographs: weather is put on them, so that what comes back can be scored",
    )
    add_weights(atlas, RUN)
    atlas.add_argument(
        "--out", type=path, default=Path("atlas.html"), metavar="FILE", help="the page (default: atlas.html)"
    )
    atlas.add_argument("--force", action="store_true", help="overwrite the page that is there")


def _atlas(options: argparse.Namespace, _: list[str]) -> int:
    from mofme_jax.restoring.atlas import check_experts, check_output, write_atlas
    from mofme_jax.viz import ProgressBar

    check_output(options.out, options.force)
    model, params = load_weights(options)
    check_experts(model)
    photographs = _read(options.photographs) or _of_the_run(options.weights)
    with ProgressBar(0, "pictures restored with and without each expert") as bar:

        def tell(done: int, total: int) -> None:
            bar.total = total
            bar.update(done)

        write_atlas(
            model,
            params,
            photographs,
            options.out,
            title=str(options.weights),
            force=options.force,
            progress=tell,
        )
    print(options.out)
    return 0


def _read(paths: "list[Path]") -> "dict[str, np.ndarray]":
    from mofme_jax.data.photos import read_photograph

    return {str(path): read_photograph(path) for path in paths}


def _of_the_run(weights: str | Path) -> "dict[str, np.ndarray]":
    """The first `MOST` photographs that the run is judged on; embedded ones for a file, or a checkpoint without its
    run."""
    from mofme_jax.data.photos import embedded_photographs
    from mofme_jax.weights import weights_file

    if weights_file(weights) is not None:
        return embedded_photographs("validation")

    from mofme_jax.training.sources import validation_photographs
    from mofme_jax.training.workdir import CONFIG_FILE, options_of_run, run_folder

    if not (run_folder(weights) / CONFIG_FILE).is_file():
        return embedded_photographs("validation")
    source = validation_photographs(options_of_run(run_folder(weights)).data)
    return {name: source[index]["image"] for index, name in enumerate(source.names[:MOST])}
