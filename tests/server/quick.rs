//! A server that computes nothing: it says the same of every prompt, when it is told to.

use std::io::ErrorKind;

use serde_json::{Value, json};
use tokio::net::TcpStream;

/// What the server calls its model.
pub const MODEL: &str = "m";

/// Answers the requests of a connection, completions once `hold` is over. Scores are all the same.
pub async fn serve(stream: TcpStream, hold: impl AsyncFn()) -> Option<()> {
    let mut bytes = Vec::new();
    loop {
        let answer = match read(&stream, &mut bytes).await? {
            None => json!({ "data": [{ "id": MODEL, "owned_by": "vllm" }] }),
            Some(body) => {
                let body: Value = serde_json::from_slice(&body).ok()?;
                let prompt = body["prompt"].as_array()?.len();
                let echo = body["echo"] == true;
                if !echo {
                    hold().await;
                }
                let logprobs = vec![-0.5; if echo { prompt + 1 } else { 1 }];
                json!({
                    "model": MODEL,
                    "choices": [{
                        "text": "Yes.",
                        "finish_reason": "stop",
                        "logprobs": { "token_logprobs": logprobs },
                    }],
                    "usage": { "prompt_tokens": prompt, "completion_tokens": 1 },
                })
            }
        };
        let text = answer.to_string();
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{text}", text.len());
        let mut rest = answer.as_bytes();
        while !rest.is_empty() {
            stream.writable().await.ok()?;
            match stream.try_write(rest) {
                Ok(written) => rest = &rest[written..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => return None,
            }
        }
    }
}

/// Reads a request; none of its body where it has none.
async fn read(stream: &TcpStream, bytes: &mut Vec<u8>) -> Option<Option<Vec<u8>>> {
    loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            let length: usize = length.map_or(Some(0), |length| length.trim().parse().ok())?;
            if bytes.len() >= end + 4 + length {
                let rest = bytes.split_off(end + 4 + length);
                let body = bytes.split_off(end + 4);
                *bytes = rest;
                return Some((length > 0).then_some(body));
            }
        }
        stream.readable().await.ok()?;
        let mut some = [0; 16384];
        match stream.try_read(&mut some) {
            Ok(0) => return None,
            Ok(read) => bytes.extend(&some[..read]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => return None,
        }
    }
}
