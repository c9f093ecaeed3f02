"""The official `anthropic` SDK, unmodified: it is told the edge's address and a key, as any user would, and nothing else."""

import anthropic

from cases import BUSY, CUTS, FRAGILE, GONE, SMALL, fault, raises, run

client = anthropic.Anthropic()
once = client.with_options(max_retries=0)
HELLO = [{"role": "user", "content": "Say hello"}]
WEATHER = {
    "name": "get_weather",
    "description": "The weather in a city",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
        "required": ["city", "days"],
    },
}
ASK_WEATHER = [{"role": "user", "content": "What is the weather in Kyoto?"}]


def sized(tokens, **more):
    """The simulated replicas' own field for an answer's length and pace."""
    return {"sim": {"tokens": tokens, **more}}


def ask(client=client, model=SMALL, messages=HELLO, tokens=20, **more):
    return client.messages.create(
        model=model, messages=messages, max_tokens=1024, extra_body=sized(tokens), **more
    )


def case_messages():
    answer = ask(system="Be brief.")
    assert answer.type == "message" and answer.stop_reason == "end_turn"
    assert answer.content[0].text and answer.usage.output_tokens == 20


async def case_messages_async():
    async with anthropic.AsyncAnthropic() as client:
        answer = await ask(client)
        assert answer.content[0].text
        async with client.messages.stream(model=SMALL, messages=HELLO, max_tokens=64) as stream:
            text = "".join([text async for text in stream.text_stream])
        assert text


def case_messages_streamed():
    whole = ask()
    events = list(ask(stream=True))
    assert events[0].type == "message_start" and events[-1].type == "message_stop"
    text = "".join(event.delta.text for event in events if event.type == "content_block_delta")
    assert text == whole.content[0].text


def case_messages_stream_helper():
    with client.messages.stream(model=SMALL, messages=HELLO, max_tokens=64, extra_body=sized(25)) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert final.content[0].text == text and final.stop_reason == "end_turn"
    assert final.usage.output_tokens == 25


def case_tools():
    answer = ask(messages=ASK_WEATHER, tools=[WEATHER])
    use = next(block for block in answer.content if block.type == "tool_use")
    assert answer.stop_reason == "tool_use" and use.name == "get_weather" and use.input["days"] == 1
    after = ask(
        messages=[
            *ASK_WEATHER,
            {"role": "assistant", "content": answer.content},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": use.id, "content": "clear"}]},
        ],
        tools=[WEATHER],
    )
    assert after.stop_reason == "end_turn" and after.content[0].text


def case_tools_streamed():
    with client.messages.stream(model=SMALL, messages=ASK_WEATHER, max_tokens=64, tools=[WEATHER]) as stream:
        final = stream.get_final_message()
    use = next(block for block in final.content if block.type == "tool_use")
    assert use.input["days"] == 1 and final.stop_reason == "tool_use"


def case_count_tokens():
    short = client.messages.count_tokens(model=SMALL, messages=HELLO).input_tokens
    long = client.messages.count_tokens(model=SMALL, messages=HELLO * 3 + ASK_WEATHER, tools=[WEATHER]).input_tokens
    assert 0 < short < long


def case_receipt_headers():
    raw = client.messages.with_raw_response.create(
        model=SMALL, messages=HELLO, max_tokens=64, extra_headers={"x-session-id": "receipt-anthropic"}
    )
    assert raw.headers["x-nearpool-pool"] == "near" and raw.headers["x-nearpool-reason"] == "new", raw.headers
    assert raw.parse().content[0].text


def case_beta_query():
    answer = client.beta.messages.create(model=SMALL, messages=HELLO, max_tokens=64)
    assert answer.content[0].text


def case_models():
    listed = {model.id for model in client.models.list()}
    assert {SMALL, FRAGILE, BUSY, GONE} <= listed, listed


def case_unknown_model():
    with raises(anthropic.NotFoundError, "no-such-model", "known names", SMALL, status=404):
        ask(model="no-such-model")
    with raises(anthropic.NotFoundError, SMALL, status=404):
        ask(model="no-such-model", stream=True)
    with raises(anthropic.NotFoundError, SMALL, status=404):
        client.messages.count_tokens(model="no-such-model", messages=HELLO)
    try:
        ask(model="no-such-model")
    except anthropic.NotFoundError as error:
        assert error.body["error"]["type"] == "not_found_error", error.body
        assert error.response.headers["x-nearpool-edge"] == "it"


def case_bad_bodies():
    with raises(anthropic.BadRequestError, "names no model", status=400):
        client.post("/v1/messages", cast_to=object, body={"messages": HELLO, "max_tokens": 5})
    with raises(anthropic.BadRequestError, status=400):
        client.post(
            "/v1/messages",
            cast_to=object,
            content=b'{"model": "m", "messages": [',
            options={"headers": {"content-type": "application/json"}},
        )


def case_a_body_that_is_too_long():
    with raises(anthropic.RequestTooLargeError, status=413):
        ask(messages=[{"role": "user", "content": "x" * (3 << 20)}])


def case_no_replica():
    try:
        ask(client.with_options(max_retries=1), model=GONE)
    except anthropic.APIStatusError as error:
        assert error.status_code in (502, 503), error
        assert "replica" in error.body["error"]["message"], error.body
    else:
        raise AssertionError("nothing was raised")


def case_at_capacity():
    slow = once.messages.create(
        model=BUSY, messages=HELLO, max_tokens=5000, stream=True, extra_body=sized(5000, itl_ms=10)
    )
    next(iter(slow))
    with raises(anthropic.RateLimitError, "capacity", status=429):
        ask(once, model=BUSY)
    slow.close()


def case_an_error_of_the_replica():
    with fault(fault="status", status=500), raises(anthropic.InternalServerError, status=500):
        ask(once, model=FRAGILE)


def case_a_cut_stream():
    for cut in CUTS:
        with fault(**cut), raises(anthropic.APIError, "broke off"):
            for event in once.messages.create(
                model=FRAGILE, messages=HELLO, max_tokens=1024, stream=True, extra_body=sized(50, itl_ms=1)
            ):
                assert event.type != "message_stop", f"{cut}: taken for whole"


def case_a_cut_stream_helper():
    for cut in CUTS:
        with fault(**cut), raises(anthropic.APIError, "broke off"):
            with once.messages.stream(
                model=FRAGILE, messages=HELLO, max_tokens=1024, extra_body=sized(50, itl_ms=1)
            ) as stream:
                stream.get_final_message()


def case_a_cut_answer_that_is_not_streamed():
    with fault(fault="truncated_body"), raises(anthropic.APIStatusError, status=502):
        ask(once, model=FRAGILE)


if __name__ == "__main__":
    run(globals())
