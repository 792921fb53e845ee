"""What training at the paper's size needs and could reach on slices of TPU v5e, by `mofme plan`: a row a slice.

    pip install 'jax[tpu]'         # the compiler; no TPU
    python benchmarks/plan.py      # some minutes a row, on two cores

Every row compiles the training step of configs/allweather_mofme.py at the same batch a chip, in a process of its own.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
SLICES = {1: "v5e:1x1", 8: "v5e:2x4", 64: "v5e:8x8", 256: "v5e:16x16"}
COLUMNS = ("chips", "batch", "state", "temporaries", "total", "GFLOP", "traffic", "sent", "ms", "bound", "images/s",
           "largest batch", "compiled")  # fmt: skip


def main() -> None:
    """Prints a Markdown table, row by row, and the versions."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--config", default="configs/allweather_mofme.py", help="default: %(default)s")
    parser.add_argument("--chips", type=int, nargs="+", choices=SLICES, default=list(SLICES), help="default: all")
    parser.add_argument("--batch", type=int, default=4, help="images a chip (default: %(default)s)")
    options, changes = parser.parse_known_args()
    for n, chips in enumerate(options.chips):
        plan = run_plan(options.config, SLICES[chips], options.batch * chips, changes)
        if not n:
            print("| " + " | ".join(COLUMNS) + " |\n" + "|---" * len(COLUMNS) + "|")
        print("| " + " | ".join(row(plan)) + " |", flush=True)
    print(", ".join(f"{name} {version}" for name, version in plan["versions"].items()))


def run_plan(config: str, topology: str, batch: int, changes: list[str]) -> dict:
    """The figures of `mofme plan --json`; leaves with its message where it cannot."""
    command = [sys.executable, "-m", "mofme_jax", "plan", f"--config={config}", f"--config.train.batch={batch}"]
    done = subprocess.run(
        [*command, *changes, f"--topology={topology}", "--json"], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    if done.returncode:
        sys.exit(done.returncode)
    return json.loads(done.stdout)


def row(plan: dict) -> list[str]:
    """The cells of a plan's row; memory and work are of one chip, images/s of all."""
    memory, rates = plan["memory"], plan["roofline"]
    return [
        str(plan["devices"]),
        str(plan["batch"]),
        f"{memory['arguments'] / 2**20:.0f} MiB",
        f"{memory['temporaries'] / 2**30:.2f} GiB",
        f"{memory['total'] / 2**30:.2f} GiB",
        f"{plan['flops'] / 1e9:.0f}",
        f"{plan['bytes_accessed'] / 1e9:.1f} GB",
        f"{sum(c['sent'] for c in plan['collectives']) / 1e6:.0f} MB",
        f"{rates['seconds'] * 1e3:.1f}",
        rates["bound"],
        f"{rates['images_per_second']:.0f}",
        str(plan["largest_batch"]["total"]),
        f"{plan['compile_seconds']:.0f} s ({plan['compile_cpu_seconds']:.0f} of CPU)",
    ]


if __name__ == "__main__":
    main()
