"""The official `openai` SDK, unmodified: it is told the edge's address and a key, as any user would, and nothing else."""

import asyncio
import json
import threading
import time
import uuid

import openai

from cases import BUSY, CUTS, FRAGILE, GONE, MENDED, SMALL, death, fault, raises, run

client = openai.OpenAI()
once = client.with_options(max_retries=0)
HELLO = [{"role": "user", "content": "Say hello"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["city", "days"],
        },
    },
}
ASK_WEATHER = [{"role": "user", "content": "What is the weather in Kyoto?"}]


def sized(tokens, **more):
    """The simulated replicas' own field for an answer's length and pace."""
    return {"sim": {"tokens": tokens, **more}}


def new_session():
    """A call that belongs to no session before it: one that was resumed elsewhere stays there, away from the next death."""
    return {"x-session-id": uuid.uuid4().hex}


def met_its_death(stream):
    """Whether the answer began at the replica that `death` is about."""
    return stream.response.headers["x-nearpool-pool"] == "mended"


def text_of(chunks):
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


# ---- chat


def case_chat():
    answer = client.chat.completions.create(model=SMALL, messages=HELLO, extra_body=sized(20))
    assert answer.choices[0].message.content and answer.choices[0].finish_reason == "stop"
    assert answer.usage.completion_tokens == 20
    assert answer.model == "meta-llama/Llama-3.1-8B-Instruct", answer.model


def case_chat_streamed_says_the_same_as_whole():
    whole = client.chat.completions.create(model=SMALL, messages=HELLO, extra_body=sized(40))
    chunks = list(client.chat.completions.create(model=SMALL, messages=HELLO, stream=True, extra_body=sized(40)))
    assert text_of(chunks) == whole.choices[0].message.content
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert all(chunk.usage is None for chunk in chunks), "usage that nobody asked for"


def case_chat_streamed_with_usage():
    chunks = list(
        client.chat.completions.create(
            model=SMALL, messages=HELLO, stream=True, stream_options={"include_usage": True}, extra_body=sized(15)
        )
    )
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == 15


def case_chat_stream_helper():
    with client.chat.completions.stream(model=SMALL, messages=HELLO, extra_body=sized(25)) as stream:
        deltas = [event.delta for event in stream if event.type == "content.delta"]
        final = stream.get_final_completion()
    assert "".join(deltas) == final.choices[0].message.content
    assert len(deltas) >= 25 and final.choices[0].finish_reason == "stop"


async def case_chat_async():
    async with openai.AsyncOpenAI() as client:
        calls = [
            client.chat.completions.create(model=SMALL, messages=HELLO, extra_body=sized(10 + n)) for n in range(16)
        ]
        answers = await asyncio.gather(*calls)
    assert [answer.usage.completion_tokens for answer in answers] == list(range(10, 26))


async def case_chat_async_streamed():
    async with openai.AsyncOpenAI() as client:

        async def one(n):
            stream = await client.chat.completions.create(
                model=SMALL, messages=HELLO, stream=True, extra_body=sized(10 + n, itl_ms=1)
            )
            return [chunk async for chunk in stream]

        for n, chunks in enumerate(await asyncio.gather(*(one(n) for n in range(8)))):
            assert len([chunk for chunk in chunks if chunk.choices[0].delta.content]) == 10 + n


def case_chat_stream_left_early():
    stream = client.chat.completions.create(model=SMALL, messages=HELLO, stream=True, extra_body=sized(500, itl_ms=5))
    for _ in zip(range(3), stream):
        pass
    stream.close()
    assert client.chat.completions.create(model=SMALL, messages=HELLO, extra_body=sized(5)).choices


# ---- tools


def case_tools():
    answer = client.chat.completions.create(model=SMALL, messages=ASK_WEATHER, tools=[WEATHER])
    choice = answer.choices[0]
    assert choice.finish_reason == "tool_calls" and choice.message.content is None
    call = choice.message.tool_calls[0]
    assert call.function.name == "get_weather" and json.loads(call.function.arguments)["days"] == 1
    messages = [
        *ASK_WEATHER,
        choice.message,
        {"role": "tool", "tool_call_id": call.id, "content": json.dumps({"sky": "clear", "degrees": 21.50})},
    ]
    after = client.chat.completions.create(model=SMALL, messages=messages, tools=[WEATHER], extra_body=sized(12))
    assert after.choices[0].finish_reason == "stop" and after.choices[0].message.content


def case_tools_streamed():
    chunks = client.chat.completions.create(model=SMALL, messages=ASK_WEATHER, tools=[WEATHER], stream=True)
    name, arguments, finish = "", "", None
    for chunk in chunks:
        for call in chunk.choices[0].delta.tool_calls or []:
            name += call.function.name or ""
            arguments += call.function.arguments or ""
        finish = chunk.choices[0].finish_reason or finish
    assert (name, finish) == ("get_weather", "tool_calls") and json.loads(arguments)["days"] == 1


def case_tools_stream_helper():
    with client.chat.completions.stream(model=SMALL, messages=ASK_WEATHER, tools=[WEATHER]) as stream:
        done = [event for event in stream if event.type == "tool_calls.function.arguments.done"]
        final = stream.get_final_completion()
    assert done[0].name == "get_weather" and json.loads(done[0].arguments)["days"] == 1
    assert final.choices[0].message.tool_calls[0].function.name == "get_weather"


# ---- the receipt


def case_receipt_headers():
    raw = client.chat.completions.with_raw_response.create(
        model=SMALL, messages=HELLO, extra_headers={"x-session-id": "receipt", "x-request-id": "asked-1"}
    )
    headers = raw.headers
    assert headers["x-nearpool-edge"] == "it" and headers["x-nearpool-region"] == "here", headers
    assert headers["x-nearpool-pool"] == "near" and headers["x-nearpool-replica"] in ("a", "b"), headers
    assert headers["x-nearpool-model"] == SMALL and headers["x-nearpool-reason"] == "new", headers
    assert headers["x-nearpool-attempts"] == "1" and headers["x-request-id"] == "asked-1", headers
    assert raw.parse().choices[0].message.content and raw.request_id == "asked-1"


def case_receipt_headers_of_a_stream():
    with client.chat.completions.with_streaming_response.create(model=SMALL, messages=HELLO, stream=True) as raw:
        assert raw.headers["x-nearpool-pool"] == "near" and raw.request_id
        assert raw.headers["content-type"].startswith("text/event-stream")
        assert text_of(raw.parse())


def case_a_session_stays_at_its_replica():
    for session in ("one", "two", "three"):
        seen = []
        for _ in range(5):
            raw = client.chat.completions.with_raw_response.create(
                model=SMALL, messages=HELLO, extra_headers={"x-session-id": session}
            )
            seen.append((raw.headers["x-nearpool-replica"], raw.headers["x-nearpool-reason"]))
        assert len({replica for replica, _ in seen}) == 1, seen
        assert [reason for _, reason in seen] == ["new"] + ["session"] * 4, seen


def case_a_step_names_the_model():
    raw = client.chat.completions.with_raw_response.create(
        model="auto", messages=HELLO, extra_headers={"x-agent-step": "planner"}
    )
    assert raw.headers["x-nearpool-model"] == SMALL
    assert client.chat.completions.create(model="planner", messages=HELLO).choices


# ---- the other endpoints


def case_embeddings():
    texts = ["one text", "another text"]
    answer = client.embeddings.create(model=SMALL, input=texts)
    vectors = [entry.embedding for entry in answer.data]
    assert len(vectors) == 2 and vectors[0] != vectors[1] and abs(sum(x * x for x in vectors[0]) - 1) < 1e-3
    plain = client.embeddings.create(model=SMALL, input=texts, encoding_format="float")
    assert max(abs(x - y) for x, y in zip(plain.data[0].embedding, vectors[0])) < 1e-6


def case_completions():
    answer = client.completions.create(model=SMALL, prompt="Once upon a time", extra_body=sized(12))
    assert answer.choices[0].text and answer.usage.completion_tokens == 12
    chunks = client.completions.create(model=SMALL, prompt="Once upon a time", stream=True, extra_body=sized(12))
    assert "".join(chunk.choices[0].text for chunk in chunks) == answer.choices[0].text


def case_responses():
    first = client.responses.create(model=SMALL, input="Say hello", extra_body=sized(12))
    assert first.status == "completed" and first.output_text and first.usage.output_tokens == 12
    last = first
    # No session is named: of the two replicas only the one that holds the response before can go on with it.
    for _ in range(6):
        answer = client.responses.create(model=SMALL, input="Go on", previous_response_id=last.id, extra_body=sized(8))
        assert answer.usage.input_tokens > last.usage.input_tokens and answer.output_text
        with client.responses.stream(
            model=SMALL, input="Go on", previous_response_id=answer.id, extra_body=sized(8)
        ) as stream:
            last = stream.get_final_response()
        assert last.previous_response_id == answer.id and last.usage.input_tokens > answer.usage.input_tokens
    try:
        once.responses.create(model=SMALL, input="Go on", previous_response_id="resp_nobodys")
        raise AssertionError("nobody knows it")
    except openai.NotFoundError as error:
        assert "resp_nobodys" in str(error), error


def case_responses_streamed():
    events = list(client.responses.create(model=SMALL, input="Say hello", stream=True, extra_body=sized(12)))
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert events[0].type == "response.created" and events[-1].type == "response.completed"
    assert text == events[-1].response.output_text
    with client.responses.stream(model=SMALL, input="Say hello", extra_body=sized(12)) as stream:
        for _ in stream:
            pass
        assert stream.get_final_response().output_text == text


def case_responses_tools():
    tool = {"type": "function", "strict": False, **WEATHER["function"]}
    answer = client.responses.create(model=SMALL, input="What is the weather in Kyoto?", tools=[tool])
    call = next(item for item in answer.output if item.type == "function_call")
    assert call.name == "get_weather" and json.loads(call.arguments)["days"] == 1
    events = client.responses.create(model=SMALL, input="What is the weather?", tools=[tool], stream=True)
    done = [event for event in events if event.type == "response.function_call_arguments.done"]
    assert json.loads(done[0].arguments)["days"] == 1


def case_models():
    listed = {model.id for model in client.models.list()}
    assert {SMALL, FRAGILE, BUSY, GONE} <= listed, listed


# ---- errors


def case_unknown_model():
    with raises(openai.NotFoundError, "no-such-model", "known names", SMALL, status=404):
        client.chat.completions.create(model="no-such-model", messages=HELLO)
    try:
        client.chat.completions.create(model="no-such-model", messages=HELLO, stream=True)
    except openai.NotFoundError as error:
        assert (error.code, error.param, error.type) == ("model_not_found", "model", "invalid_request_error")
        assert error.response.headers["x-nearpool-edge"] == "it" and error.request_id
    else:
        raise AssertionError("nothing was raised")


def case_unknown_model_at_every_endpoint():
    for call in (
        lambda: client.completions.create(model="nope", prompt="x"),
        lambda: client.embeddings.create(model="nope", input="x"),
        lambda: client.responses.create(model="nope", input="x"),
    ):
        with raises(openai.NotFoundError, SMALL, status=404):
            call()


async def case_unknown_model_async():
    async with openai.AsyncOpenAI() as client:
        with raises(openai.NotFoundError, SMALL, status=404):
            await client.chat.completions.create(model="nope", messages=HELLO)


def case_bad_bodies():
    with raises(openai.BadRequestError, "names no model", status=400):
        client.post("/chat/completions", cast_to=object, body={"messages": HELLO})
    with raises(openai.BadRequestError, status=400):
        client.post(
            "/chat/completions",
            cast_to=object,
            content=b'{"model": "m", "messages": [',
            options={"headers": {"content-type": "application/json"}},
        )
    with raises(openai.BadRequestError, status=400):
        client.post("/chat/completions", cast_to=object, body=["no", "object"])


def case_a_bad_request_of_the_engines_own_comes_as_it_is():
    with raises(openai.BadRequestError, "messages is empty", status=400):
        client.chat.completions.create(model=SMALL, messages=[])


def case_unknown_path():
    with raises(openai.NotFoundError, status=404):
        client.images.generate(model=SMALL, prompt="a cat")


def case_a_body_that_is_too_long():
    long = [{"role": "user", "content": "x" * (3 << 20)}]
    with raises(openai.APIStatusError, status=413):
        client.chat.completions.create(model=SMALL, messages=long)


def case_no_replica():
    began = openai.OpenAI(max_retries=1)
    with raises(openai.InternalServerError):
        began.chat.completions.create(model=GONE, messages=HELLO)
    try:
        once.chat.completions.create(model=GONE, messages=HELLO)
    except openai.APIStatusError as error:
        assert error.status_code in (502, 503), error
        assert error.code in ("no_replica", "connect_failed"), error.code
        assert "replica" in error.message and int(error.response.headers["retry-after"]) >= 1
    else:
        raise AssertionError("nothing was raised")


def case_at_capacity_then_free_again():
    slow = once.chat.completions.create(model=BUSY, messages=HELLO, stream=True, extra_body=sized(5000, itl_ms=10))
    next(iter(slow))
    with raises(openai.RateLimitError, "capacity", status=429):
        once.chat.completions.create(model=BUSY, messages=HELLO)
    # The SDK's own retries wait as long as the edge asks them to, and succeed once there is room.
    threading.Timer(0.5, slow.close).start()
    patient = openai.OpenAI(max_retries=5)
    assert patient.chat.completions.create(model=BUSY, messages=HELLO, extra_body=sized(5)).choices


def case_a_shed_call_is_retried_after_retry_after():
    slow = once.chat.completions.create(model=BUSY, messages=HELLO, stream=True, extra_body=sized(5000, itl_ms=10))
    next(iter(slow))
    sent, told = [], []

    def request(message):
        sent.append((time.monotonic(), message.headers.get("x-stainless-retry-count")))

    def response(message):
        told.append((time.monotonic(), message.status_code, message.headers))
        # The place is free from the first refusal on: only the SDK's own pause is left to wait for.
        slow.close()

    http_client = openai.DefaultHttpxClient(event_hooks={"request": [request], "response": [response]})
    with openai.OpenAI(http_client=http_client) as patient:
        answer = patient.chat.completions.create(model=BUSY, messages=HELLO, extra_body=sized(5))
    assert answer.choices[0].message.content and answer.usage.completion_tokens == 5
    assert [status for _, status, _ in told] == [429, 200], told
    refused_at, _, refusal = told[0]
    pause_s = float(refusal["retry-after"])
    assert 1 <= pause_s <= 60 and refusal["x-nearpool-attempts"] == "0", refusal
    assert [count for _, count in sent] == ["0", "1"], sent
    assert sent[1][0] - refused_at >= pause_s, (sent, told)


def case_an_error_of_the_replica():
    with fault(fault="status", status=500), raises(openai.InternalServerError, status=500):
        once.chat.completions.create(model=FRAGILE, messages=HELLO)
    with fault(fault="status", status=422), raises(openai.UnprocessableEntityError, status=422):
        client.chat.completions.create(model=FRAGILE, messages=HELLO)
    with fault(fault="status", status=429, retry_after_s=1), raises(openai.RateLimitError, status=429):
        once.chat.completions.create(model=FRAGILE, messages=HELLO)


def case_a_retry_of_the_sdk_heals():
    with fault(fault="status", status=503, remaining=1):
        assert client.chat.completions.create(model=FRAGILE, messages=HELLO).choices


# ---- answers that break off: an SDK must never hand out a short one as whole


def case_a_cut_chat_stream():
    for cut in CUTS:
        with fault(**cut), raises(openai.APIError, "broke off"):
            stream = once.chat.completions.create(
                model=FRAGILE, messages=HELLO, stream=True, extra_body=sized(50, itl_ms=1)
            )
            for chunk in stream:
                assert not chunk.choices or chunk.choices[0].finish_reason is None, f"{cut}: taken for whole"


def case_a_cut_chat_stream_helper():
    for cut in CUTS:
        with fault(**cut), raises(openai.APIError, "broke off"):
            with once.chat.completions.stream(
                model=FRAGILE, messages=HELLO, extra_body=sized(50, itl_ms=1)
            ) as stream:
                stream.get_final_completion()


async def case_a_cut_chat_stream_async():
    async with openai.AsyncOpenAI(max_retries=0) as client:
        for cut in CUTS:
            with fault(**cut), raises(openai.APIError, "broke off"):
                stream = await client.chat.completions.create(
                    model=FRAGILE, messages=HELLO, stream=True, extra_body=sized(50, itl_ms=1)
                )
                async for _ in stream:
                    pass


def case_a_cut_tool_call_stream():
    with fault(fault="cut_mid_stream", after_events=2), raises(openai.APIError, "broke off"):
        for _ in once.chat.completions.create(model=FRAGILE, messages=ASK_WEATHER, tools=[WEATHER], stream=True):
            pass


def case_a_cut_completions_stream():
    for cut in CUTS:
        with fault(**cut), raises(openai.APIError, "broke off"):
            for _ in once.completions.create(
                model=FRAGILE, prompt="Once", stream=True, extra_body=sized(50, itl_ms=1)
            ):
                pass


def case_a_cut_stream_is_resumed_and_seen_as_one_answer():
    whole = client.chat.completions.create(model=SMALL, messages=HELLO, extra_body=sized(50))
    for cut in CUTS:
        with death(**cut):
            stream = once.chat.completions.create(
                model=MENDED,
                messages=HELLO,
                stream=True,
                stream_options={"include_usage": True},
                extra_body=sized(50),
                extra_headers=new_session(),
            )
            assert met_its_death(stream), cut
            chunks = list(stream)
        assert text_of(chunks) == whole.choices[0].message.content, cut
        assert len({chunk.id for chunk in chunks}) == 1 and len({chunk.created for chunk in chunks}) == 1, cut
        assert [chunk.choices[0].delta.role for chunk in chunks if chunk.choices and chunk.choices[0].delta.role] == [
            "assistant"
        ], cut
        assert chunks[-2].choices[0].finish_reason == "stop", cut
        usage = chunks[-1].usage
        assert (usage.prompt_tokens, usage.completion_tokens) == (whole.usage.prompt_tokens, 50), (cut, usage)


def case_a_resumed_stream_helper():
    whole = client.chat.completions.create(model=SMALL, messages=HELLO, extra_body=sized(50))
    for cut in CUTS:
        with death(**cut), once.chat.completions.stream(
            model=MENDED, messages=HELLO, extra_body=sized(50), extra_headers=new_session()
        ) as stream:
            choice = stream.get_final_completion().choices[0]
        assert choice.message.content == whole.choices[0].message.content and choice.message.role == "assistant", cut


def case_a_cut_completions_stream_is_resumed():
    whole = client.completions.create(model=SMALL, prompt="Once", extra_body=sized(50))
    for cut in CUTS:
        with death(**cut):
            stream = once.completions.create(
                model=MENDED,
                prompt="Once",
                max_tokens=100,
                stream=True,
                extra_body=sized(50),
                extra_headers=new_session(),
            )
            assert met_its_death(stream), cut
            chunks = list(stream)
        assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text, cut
        assert chunks[-1].choices[0].finish_reason == "stop", cut


def case_a_cut_that_is_unsafe_to_resume():
    unsafe = [
        {"response_format": {"type": "json_object"}},
        {"logprobs": True},
        {"messages": ASK_WEATHER, "tools": [WEATHER]},
    ]
    for more in unsafe:
        with death(fault="cut_mid_stream", after_events=3), raises(openai.APIError, "broke off"):
            asked = {"messages": HELLO, "extra_headers": new_session(), **more}
            for _ in once.chat.completions.create(model=MENDED, stream=True, extra_body=sized(50), **asked):
                pass


def case_a_cut_responses_stream():
    for cut in CUTS:
        with fault(**cut), raises(openai.APIError, "broke off"):
            for event in once.responses.create(
                model=FRAGILE, input="Say hello", stream=True, extra_body=sized(50, itl_ms=1)
            ):
                assert event.type != "response.completed"


def case_a_cut_answer_that_is_not_streamed():
    for call in (
        lambda: once.chat.completions.create(model=FRAGILE, messages=HELLO),
        lambda: once.completions.create(model=FRAGILE, prompt="Once"),
        lambda: once.responses.create(model=FRAGILE, input="Say hello"),
        lambda: once.embeddings.create(model=FRAGILE, input="x"),
    ):
        with fault(fault="truncated_body"), raises(openai.InternalServerError, status=502):
            call()


if __name__ == "__main__":
    run(globals())
