//! What is asked: chat calls as agents send them.

use std::time::Duration;

use crate::mock::STREAM;

/// What clients ask for; the replicas know it by [`SERVED_AS`], so that every body is rewritten.
pub(crate) const MODEL: &str = "bench";
pub(crate) const SERVED_AS: &str = "bench-served";

/// A whole request of one session, its body of about `body_bytes`. `stream` asks for so many events, so far apart.
pub(crate) fn request(session: usize, body_bytes: usize, stream: Option<(u32, Duration)>) -> Vec<u8> {
    let body = chat_body(body_bytes, stream.is_some());
    let wish =
        stream.map_or(String::new(), |(events, interval)| format!("{STREAM}: {events},{}\r\n", interval.as_micros()));
    // The head of the OpenAI SDK for Python; an address that the GeoIP database places.
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: edge.example:8080\r\nAccept-Encoding: gzip, deflate\r\n\
         Connection: keep-alive\r\nAccept: application/json\r\nContent-Type: application/json\r\n\
         User-Agent: OpenAI/Python 3.54.0\r\nX-Stainless-Lang: python\r\nX-Stainless-Package-Version: 3.54.0\r\n\
         X-Stainless-OS: Linux\r\nX-Stainless-Arch: x64\r\nX-Stainless-Runtime: CPython\r\n\
         X-Stainless-Runtime-Version: 3.13.1\r\nAuthorization: Bearer sk-bench-{}\r\nX-Stainless-Async: async:asyncio\r\n\
         x-stainless-retry-count: 0\r\nx-stainless-read-timeout: 600\r\nx-forwarded-for: 52.94.{}.7\r\n\
         x-session-id: agent-run-{session}\r\nx-agent-step: planner\r\n{wish}Content-Length: {}\r\n\r\n",
        session % 8,
        session % 200,
        body.len(),
    );
    [head.into_bytes(), body].concat()
}

/// Prose and code in turn, so an escape every 20 to 50 bytes; the model's name at the end, where some clients write it.
fn chat_body(bytes: usize, stream: bool) -> Vec<u8> {
    let text = "The function below keeps one counter for each replica and gives the least loaded back to the caller.\n\
        It says \"none\" when every one of them is at its bound, so that the request is shed early and not queued.\n\
        \tfor (index, replica) in self.replicas.iter().enumerate() {\n\t\tif replica.in_flight < bound {\n\
        \t\t\tdebug!(\"candidate {}\", replica.name);\n\t\t\tbest = best.min((replica.in_flight, index));\n\t\t}\n\t}\n"
        .repeat(8);
    let system = r#"{"role":"system","content":"You are a careful engineer. Answer in few words."}"#;
    let tool = r#"{"type":"function","function":{"name":"read_file","description":"Reads a file.","parameters":{"type":"object","properties":{"path":{"type":"string"},"limit":{"type":"integer","minimum":1}},"required":["path"]}}}"#;
    let end = format!(r#"],"tools":[{tool}],"temperature":0.2,"stream":{stream},"model":"{MODEL}"}}"#);
    let mut body = format!(r#"{{"messages":[{system}"#);
    for turn in 0.. {
        let room = bytes.saturating_sub(body.len() + end.len() + 40);
        if room == 0 {
            break;
        }
        let role = if turn % 2 == 0 { "user" } else { "assistant" };
        let content = &text[..text.len().min(room)];
        body.push_str(&format!(",{}", serde_json::json!({ "role": role, "content": content })));
    }
    body.push_str(&end);
    body.into_bytes()
}
