"""Serves a model by llama.cpp's own HTTP server on a free port of the loopback network.

    python serve.py MODEL ADDRESS

It says `listening PORT` when it answers, and ends when its stdin does, thus with its parent, however that ends.
"""

import os
import sys

import xllamacpp

# Where one engine is left to serve everything, each of the eight sessions still has a slot, and so a cache, of its own.
SLOTS = 8
# Tokens of a slot.
SLOT_CONTEXT = 4096


def params(model, address):
    params = xllamacpp.CommonParams()
    params.model.path = model
    params.hostnames = [address]
    params.port = 0
    params.n_parallel = SLOTS
    params.n_ctx = SLOTS * SLOT_CONTEXT
    # Two engines share the machine with the edge.
    params.cpuparams.n_threads = 1
    params.cpuparams_batch.n_threads = 1
    params.endpoint_metrics = True
    # Else a new agent takes the slot of another, whose system prompt is the same, and its cache with it.
    params.slot_prompt_similarity = 0.5
    params.verbosity = 1
    return params


if __name__ == "__main__":
    server = xllamacpp.Server(params(*sys.argv[1:]))
    print("listening", server.listening_address, flush=True)
    sys.stdin.read()
    # The server's threads are not waited for.
    os._exit(0)
