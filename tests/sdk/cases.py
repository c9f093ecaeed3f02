"""What the scripts share: cases are run one by one, each is reported in a line, and replicas are told to misbehave."""

import asyncio
import contextlib
import faulthandler
import inspect
import json
import os
import time
import traceback
import urllib.request

# What the edge calls its models; `fragile`, `busy` and `gone` have one replica each, `mended` has one that dies and,
# farther away, a good one.
SMALL, FRAGILE, BUSY, GONE, MENDED = "m", "fragile", "busy", "gone", "mended"


# For one case, in seconds; the longest waits through a few `Retry-After` of the edge.
CASE_TIMEOUT_S = 60


def run(module):
    """Runs every `case_…` of a script; exits with 1 if one failed, or with a traceback if one hangs."""
    passed = failed = 0
    for name, case in list(module.items()):
        if not name.startswith("case_"):
            continue
        began = time.monotonic()
        faulthandler.dump_traceback_later(CASE_TIMEOUT_S, exit=True)
        try:
            result = case()
            if inspect.iscoroutine(result):
                asyncio.run(result)
        except Exception:
            failed += 1
            traceback.print_exc()
            verdict = "FAILED"
        else:
            passed += 1
            verdict = "ok"
        print(f"{verdict:6} {name.removeprefix('case_')} ({time.monotonic() - began:.2f} s)", flush=True)
    print(f"{passed} passed, {failed} failed", flush=True)
    raise SystemExit(1 if failed or not passed else 0)


@contextlib.contextmanager
def fault(**plan):
    """The only replica of the model `fragile` shows this fault within the block."""
    with at(os.environ["NEARPOOL_SDK_FRAGILE_REPLICA"], plan):
        yield


@contextlib.contextmanager
def death(**plan):
    """The nearest replica of the model `mended` shows this fault within the block."""
    with at(os.environ["NEARPOOL_SDK_DYING_REPLICA"], plan):
        yield


@contextlib.contextmanager
def at(replica, plan):
    order(replica, plan)
    try:
        yield
    finally:
        order(replica, {"fault": "none"})


def order(replica, plan):
    url = replica + "/sim/fault"
    with urllib.request.urlopen(urllib.request.Request(url, json.dumps(plan).encode()), timeout=10) as answer:
        assert answer.status < 300, answer.status


@contextlib.contextmanager
def raises(kind, *words, status=None):
    """The block must raise this exception, with these words in its message and this status."""
    try:
        yield
    except kind as error:
        text = str(error)
        for word in words:
            assert word in text, f"no {word!r} in {text!r}"
        if status is not None:
            assert error.status_code == status, f"status {error.status_code}: {text}"
    else:
        raise AssertionError(f"nothing was raised, wanted {kind.__name__}")


# Faults in the middle of an answer: a connection that closes after three events, and a stream that ends cleanly but
# without its last events, which an SDK left to itself takes for whole.
CUTS = [
    {"fault": "cut_mid_stream", "after_events": 3},
    {"fault": "truncated_body"},
]
