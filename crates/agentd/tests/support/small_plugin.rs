//! A small compiled plugin, of the standard library alone: `small-plugin WORD`. Its one tool, `echo`, answers with the word
//! and what it was given. What it reads is what a gateway writes: one message a line, an id of digits.

use std::io::{BufRead, Write};

fn main() {
    let word = std::env::args().nth(1).unwrap_or_default();
    let mut out = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        let Ok(line) = line else { return };
        let id: String = match line.split("\"id\":").nth(1) {
            Some(rest) => rest.chars().take_while(char::is_ascii_digit).collect(),
            None => continue,
        };
        let has = |method: &str| line.contains(&format!("\"method\":\"{method}\""));
        let answer = if has("initialize") {
            r#""result":{"protocolVersion":"2025-11-25","capabilities":{"tools":{}},"serverInfo":{"name":"small","version":"1"}}"#.to_owned()
        } else if has("tools/list") {
            r#""result":{"tools":[{"name":"echo","inputSchema":{"type":"object"}}]}"#.to_owned()
        } else if has("tools/call") {
            let said = line.split("\"text\":\"").nth(1);
            let said = said.and_then(|rest| rest.split('"').next()).unwrap_or_default();
            format!(r#""result":{{"content":[{{"type":"text","text":"{word}: {said}"}}]}}"#)
        } else {
            r#""error":{"code":-32601,"message":"no such method"}"#.to_owned()
        };
        let answered = writeln!(out, "{{\"jsonrpc\":\"2.0\",\"id\":{id},{answer}}}");
        if answered.and_then(|()| out.flush()).is_err() {
            return;
        }
    }
}
