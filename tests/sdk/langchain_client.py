"""LangChain's `ChatOpenAI`, unmodified, as LangGraph agents use it."""

import asyncio

import openai
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings

from cases import CUTS, FRAGILE, SMALL, fault, raises, run


@tool
def get_weather(city: str, days: int) -> str:
    """The weather in a city."""
    return f"clear in {city} for {days} days"


def case_invoke():
    answer = ChatOpenAI(model=SMALL).invoke("Say hello")
    assert answer.content and answer.usage_metadata["output_tokens"] > 0


def case_stream():
    chunks = list(ChatOpenAI(model=SMALL, stream_usage=True).stream("Say hello"))
    assert len(chunks) > 3 and "".join(chunk.content for chunk in chunks)
    assert sum((chunk.usage_metadata or {}).get("output_tokens", 0) for chunk in chunks) > 0


def case_astream():
    async def text():
        return "".join([chunk.content async for chunk in ChatOpenAI(model=SMALL).astream("Say hello")])

    assert asyncio.run(text())


def case_a_tool_loop():
    model = ChatOpenAI(model=SMALL, default_headers={"x-session-id": "langchain"}).bind_tools([get_weather])
    messages = [HumanMessage("What is the weather in Kyoto?")]
    messages.append(model.invoke(messages))
    call = messages[-1].tool_calls[0]
    assert call["name"] == "get_weather"
    messages.append(ToolMessage(get_weather.invoke(call["args"]), tool_call_id=call["id"]))
    assert model.invoke(messages).content


def case_unknown_model():
    with raises(openai.NotFoundError, SMALL, status=404):
        ChatOpenAI(model="no-such-model").invoke("Say hello")


def case_a_cut_stream():
    for cut in CUTS:
        with fault(**cut), raises(openai.APIError, "broke off"):
            model = ChatOpenAI(model=FRAGILE, max_retries=0, extra_body={"sim": {"tokens": 50, "itl_ms": 1}})
            for _ in model.stream("Say hello"):
                pass


def case_embeddings():
    vectors = OpenAIEmbeddings(model=SMALL, check_embedding_ctx_length=False).embed_documents(["one", "two"])
    assert len(vectors) == 2 and vectors[0] != vectors[1]


if __name__ == "__main__":
    run(globals())
