"""Several processes, as far as one can tell; what they do together is in test_meshes.py."""

import re

import jax
import pytest

from mofme_jax.training import processes


@pytest.fixture
def initialised(monkeypatch):
    """What JAX was asked for; nothing is joined."""
    asked = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *place: asked.append(place))
    return asked


def test_processes_are_joined_by_hand_or_as_the_environment_tells(initialised):
    processes.join("10.0.0.1:1234", 1, 2)
    processes.join()
    assert initialised == [("10.0.0.1:1234", 2, 1), (None, None, None)]


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (("10.0.0.1:1234", None, None), "--coordinator=HOST:PORT, --process_id=I and --process_count=N go together"),
        ((None, 0, 2), "go together: give all three"),
        (("10.0.0.1", 0, 2), "--coordinator=10.0.0.1 must be HOST:PORT"),
        (("10.0.0.1:1234", 2, 2), "--process_id=2 must be from 0 to --process_count=2 less one"),
    ],
)
def test_a_place_that_cannot_be_is_explained(place, message, initialised):
    with pytest.raises(ValueError, match=re.escape(message)):
        processes.join(*place)
    assert not initialised


@pytest.mark.parametrize(
    ("error", "raised", "message"),
    [
        (ValueError("coordinator_address should be defined."), ValueError, "does not tell .* give --coordinator="),
        (RuntimeError("DEADLINE_EXCEEDED: late\nmore"), OSError, "did not come together: DEADLINE_EXCEEDED: late$"),
    ],
)
def test_what_jax_says_is_one_line_with_the_remedy(error, raised, message, monkeypatch):
    def fail(*place):
        raise error

    monkeypatch.setattr(jax.distributed, "initialize", fail)
    with pytest.raises(raised, match=message):
        processes.join()


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("fails", [False, True])
def test_what_the_first_cannot_do_all_know(index, fails, monkeypatch):
    monkeypatch.setattr(jax, "process_index", lambda: index)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(processes, "first_says", lambda answer: not fails)
    done = []

    def what():
        done.append(index)
        if fails:
            raise OSError("the disk is full")

    if fails:
        with pytest.raises(OSError, match="the disk is full" if index == 0 else "process 0, which says why, cannot"):
            processes.first_does(what)
    else:
        processes.first_does(what)
    assert done == [0] * (index == 0)


@pytest.mark.parametrize("index", [0, 1])
def test_the_first_goes_first_even_if_it_fails(index, monkeypatch, capsys):
    events = []
    monkeypatch.setattr(jax, "process_index", lambda: index)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(processes.multihost_utils, "sync_global_devices", lambda name: events.append("meet"))

    def work():
        with processes.first_one_first("a place"):
            events.append("work")
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        work()
    assert events == (["work", "meet"] if index == 0 else ["meet", "work"])
    processes.say("hello")
    assert capsys.readouterr().out == ("hello\n" if index == 0 else "")


def ends_with(*errors):
    """Raises copies of the errors, each while the one before is on its way, in `together`; returns what comes out."""
    with pytest.raises((OSError, ValueError, RuntimeError)) as found, processes.together():
        raise_all(*errors)
    return found.value


def raise_all(*errors):
    try:
        if errors[:-1]:
            raise_all(*errors[:-1])
    finally:
        raise type(errors[-1])(*errors[-1].args)  # one that was raised remembers what came before it


GLOO = "INTERNAL: a step\nUNKNOWN: Gloo AllGather failed: [external/gloo/pair.cc:5] Connection closed by peer\nmore"
RPC = (
    "UNAVAILABLE: failed to connect\nFrom remote target coordination_service while calling CoordinationService/Barrier"
)
DISK, WEDGED = OSError("/a/1 cannot be written (no space left)"), OSError("/runs/Gloo closed by peer cannot be read")


@pytest.mark.parametrize(
    ("errors", "told"),
    [
        ([ValueError(GLOO)], "(UNKNOWN: Gloo AllGather failed: Connection closed by peer), and"),
        ([jax.errors.JaxRuntimeError(RPC)], "CoordinationService/Barrier), and"),
        ([ValueError(GLOO), DISK], "(UNKNOWN: Gloo AllGather failed: Connection closed by peer), and"),
        ([DISK, ValueError(GLOO)], "by peer; before that, here: /a/1 cannot be written (no space left)), and"),
    ],
)
def test_what_comes_of_the_end_of_another_process_says_so(errors, told, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 1)
    assert repr(ends_with(*errors)) == repr(errors[-1])
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    found = ends_with(*errors)
    assert isinstance(found, processes.AnotherEnded)
    assert told in str(found)
    assert "\n" not in str(found)


@pytest.mark.parametrize(
    "error",
    [
        DISK,
        WEDGED,
        ValueError("data.folder=/data/heartbeat/NCCL: no images"),
        jax.errors.JaxRuntimeError(
            "INTERNAL: NCCL operation ncclCommInitRank failed: unhandled cuda error: out of memory"
        ),
        jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory"),
    ],
)
def test_an_error_of_its_own_stays_what_it_is(error, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    assert repr(ends_with(error)) == repr(error)
