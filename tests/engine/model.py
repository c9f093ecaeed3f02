"""Writes a small model of random weights as GGUF: llama's architecture, a BPE tokenizer, ChatML, 32K of context.

What it says is noise. What it is for is everything around: prompts are tokenised, prefilled, cached and answered as a
real model's are. Nothing but the standard library is needed: the format is a list of keys and a list of tensors.

    python model.py FILE
"""

import array
import os
import random
import struct
import sys

SEED = 3
LAYERS, WIDTH, HEADS, FORWARD, CONTEXT = 4, 256, 4, 512, 32768

# The tokens: letters, syllables of two, and words of two syllables with the space before them. Answers are made of such
# words alone, so that their text has as many tokens when it comes back in a prompt, and the same ones. An alphabet that has
# no tokens here is left out of a prompt.
SPECIAL = ["<|im_start|>", "<|im_end|>"]
START, END = range(2)
SPACE, LINE = "Ġ", "Ċ"  # how GPT-2's vocabulary writes them
LETTERS = [SPACE, LINE, *map(chr, range(ord("!"), ord("~") + 1))]
SYLLABLES = [(a, b) for a in "bdfgklmnprstvz" for b in "aeiou"]
PAIRS = random.Random(SEED).sample([(a + b, c + d) for a, b in SYLLABLES for c, d in SYLLABLES], 256)
SPACED = [(SPACE, a + b) for a, b in PAIRS]
MERGES = SYLLABLES + PAIRS + SPACED
TOKENS = SPECIAL + LETTERS + [a + b for a, b in MERGES]
SAID_FROM = len(TOKENS) - len(SPACED)

CHATML = """{% for message in messages %}<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""

# The format's numbers for types.
U32, I32, F32, BOOL, STRING, LIST = 4, 5, 6, 7, 8, 9
NORMAL, CONTROL = 1, 3
ALIGNMENT = 32


def keys():
    """What is said of the model: key, type, value."""
    yield "general.architecture", STRING, "llama"
    yield "general.name", STRING, "random"
    yield "llama.context_length", U32, CONTEXT
    yield "llama.embedding_length", U32, WIDTH
    yield "llama.block_count", U32, LAYERS
    yield "llama.feed_forward_length", U32, FORWARD
    yield "llama.attention.head_count", U32, HEADS
    yield "llama.attention.layer_norm_rms_epsilon", F32, 1e-5
    yield "llama.rope.dimension_count", U32, WIDTH // HEADS
    yield "tokenizer.ggml.model", STRING, "gpt2"
    yield "tokenizer.ggml.pre", STRING, "gpt-2"
    yield "tokenizer.ggml.tokens", LIST, (STRING, TOKENS)
    yield "tokenizer.ggml.token_type", LIST, (I32, [CONTROL] * len(SPECIAL) + [NORMAL] * (len(TOKENS) - len(SPECIAL)))
    yield "tokenizer.ggml.merges", LIST, (STRING, [f"{a} {b}" for a, b in MERGES])
    yield "tokenizer.ggml.bos_token_id", U32, START
    yield "tokenizer.ggml.eos_token_id", U32, END
    yield "tokenizer.ggml.add_bos_token", BOOL, False
    yield "tokenizer.chat_template", STRING, CHATML


def tensors(rng):
    """The weights: name, shape (the contiguous dimension first), values."""

    def matrix(columns, rows):
        # Uniform, of such a width that what comes out is as large as what went in.
        bound = (3 / columns) ** 0.5
        return (columns, rows), array.array("f", [rng.uniform(-bound, bound) for _ in range(columns * rows)])

    ones = (WIDTH,), array.array("f", [1.0] * WIDTH)
    yield "token_embd.weight", *matrix(WIDTH, len(TOKENS))
    for layer in range(LAYERS):
        for name in ["attn_q", "attn_k", "attn_v", "attn_output"]:
            yield f"blk.{layer}.{name}.weight", *matrix(WIDTH, WIDTH)
        for name, columns, rows in [("gate", WIDTH, FORWARD), ("up", WIDTH, FORWARD), ("down", FORWARD, WIDTH)]:
            yield f"blk.{layer}.ffn_{name}.weight", *matrix(columns, rows)
        for name in ["attn_norm", "ffn_norm"]:
            yield f"blk.{layer}.{name}.weight", *ones
    yield "output_norm.weight", *ones
    shape, values = matrix(WIDTH, len(TOKENS))
    # What is no word has a logit of 0 and some of the words have more. So an answer ends at `max_tokens` and not before.
    values[: WIDTH * SAID_FROM] = array.array("f", [0.0] * WIDTH * SAID_FROM)
    yield "output.weight", shape, values


def packed(kind, value):
    if kind == STRING:
        data = value.encode()
        return struct.pack("<Q", len(data)) + data
    if kind == LIST:
        of, values = value
        return struct.pack("<IQ", of, len(values)) + b"".join(packed(of, each) for each in values)
    return struct.pack({U32: "<I", I32: "<i", F32: "<f", BOOL: "<?"}[kind], value)


def padding(length):
    return b"\0" * (-length % ALIGNMENT)


def gguf():
    """The file's bytes."""
    said, weights = list(keys()), list(tensors(random.Random(SEED)))
    head = b"GGUF" + struct.pack("<IQQ", 3, len(weights), len(said))
    for key, kind, value in said:
        head += packed(STRING, key) + struct.pack("<I", kind) + packed(kind, value)
    data = bytearray()
    for name, shape, values in weights:
        head += packed(STRING, name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, 0, len(data))
        data += values.tobytes()
        data += padding(len(data))
    return head + padding(len(head)) + data


if __name__ == "__main__":
    file = sys.argv[1]
    # Whole or not at all.
    part = f"{file}.{os.getpid()}"
    with open(part, "wb") as out:
        out.write(gguf())
    os.replace(part, file)
