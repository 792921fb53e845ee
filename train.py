"""Trains MoFME: `python train.py --config configs/default.py --workdir runs/default [--config.field=value]`."""

import os
import signal
import sys
import time

from absl import app, flags, logging

from mofme_jax.config_file import define_config, no_config, quote_folders, unknown_field

flags.DEFINE_string("workdir", "runs/default", "Where the run is kept; a run there is gone on with.")
flags.DEFINE_bool("distributed", False, "Several processes, who find each other: TPU slice, GKE, SLURM, Open MPI.")
flags.DEFINE_string("coordinator", None, "Several processes, started by hand: HOST:PORT of process 0.")
flags.DEFINE_integer("process_id", None, "Number of this process, from 0.")
flags.DEFINE_integer("process_count", None, "How many processes there are.")


def parse(argv: list[str]) -> list[str]:
    """Parses the command line; one that will not do ends in one line on stderr, status 1."""
    try:
        # here, because the fields of the default config are parsed as soon as it is defined
        define_config(flags.FLAGS)
        return flags.FLAGS(quote_folders(argv))
    except flags.Error as error:
        sys.exit(f"train.py: {error}")
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        sys.exit(f"train.py: {unknown_field(error)}")
    except OSError as error:
        sys.exit(f"train.py: {no_config(error)}")


def main(argv: list[str]) -> None:
    """Runs the training; a config, folder or file that will not do ends in one line on stderr, status 1.

    A run that a signal stopped ends in one line as well, status 75, and so does one that lost another of its processes;
    one whose files cannot be written, status 74.
    """
    if len(argv) > 1:
        sys.exit(f"train.py: unexpected argument {argv[1]!r}; fields are set as --config.field=value")
    logging.set_verbosity(logging.WARNING)  # the libraries report every file they rename
    try:
        config = flags.FLAGS.config.lock()
    except OSError as error:
        sys.exit(f"train.py: {no_config(error)}")
    from mofme_jax.compiled import keep_compiled
    from mofme_jax.files import NOT_SAVED, NotSaved
    from mofme_jax.training import train_and_evaluate
    from mofme_jax.training.processes import AnotherEnded, is_first, join
    from mofme_jax.training.stopping import STOPPED, Stopped

    values = flags.FLAGS
    place = (values.coordinator, values.process_id, values.process_count)
    try:
        keep_compiled()
        if values.distributed or place != (None, None, None):
            join(*place)  # docs/launching.md
        train_and_evaluate(config, flags.FLAGS.workdir)
    except NotSaved as error:
        print(f"train.py: {error}", file=sys.stderr)
        sys.exit(NOT_SAVED)
    except AnotherEnded as error:
        print(f"train.py: {error}", file=sys.stderr, flush=True)
        if is_first():
            time.sleep(2.0)  # so that the rest may say so too: JAX aborts those that are left without process 0
        os._exit(STOPPED)  # else JAX waits a minute for the other one, and ends in a long trace
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"train.py: {error}")
    except FloatingPointError as error:
        import jax

        if jax.process_count() == 1:  # else the processes end one by one, and computing takes all of them
            from mofme_jax.training.examine import write_examination

            print(f"report {write_examination(values.workdir)[0]}")
        sys.exit(f"train.py: {error}")
    except Stopped as stopped:
        print(f"train.py: {stopped}; the same command goes on from there", file=sys.stderr)
        sys.exit(STOPPED)


if __name__ == "__main__":
    # Where nothing is lost by it, Ctrl-C ends the process as SIGTERM does: at once, even while XLA compiles, and by no
    # exception, which a library may swallow. Where a signal is ignored (nohup, a job in the background) it stays so.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    app.run(main, flags_parser=parse)
