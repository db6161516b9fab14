//! A client that costs little, so that the daemon gets the processors.

use hdrhistogram::Histogram;
use std::path::Path;
use std::time::Instant;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

pub(crate) struct Peer {
    stream: UnixStream,
    input: Vec<u8>,
    // The end of the answer last given out.
    taken: usize,
}

/// A leased node, as far as it is needed to complete it.
pub(crate) struct Leased {
    pub(crate) node_id: String,
    pub(crate) lease_id: String,
}

impl Peer {
    pub(crate) async fn connect(socket: &Path) -> Self {
        Self {
            stream: UnixStream::connect(socket).await.unwrap(),
            input: Vec::with_capacity(32_768),
            taken: 0,
        }
    }

    pub(crate) async fn send(&mut self, lines: &str) {
        self.stream.write_all(lines.as_bytes()).await.unwrap();
    }

    /// The next answer, without its newline.
    pub(crate) async fn answer(&mut self) -> &[u8] {
        self.input.drain(..self.taken);
        self.taken = 0;
        let mut looked = 0;
        loop {
            if let Some(at) = self.input[looked..].iter().position(|byte| *byte == b'\n') {
                let end = looked + at;
                self.taken = end + 1;
                let line = &self.input[..end];
                assert!(!starts(line, "{\"error\""), "{}", String::from_utf8_lossy(line));
                return line;
            }
            looked = self.input.len();
            assert!(
                self.stream.read_buf(&mut self.input).await.unwrap() > 0,
                "the daemon closed the connection"
            );
        }
    }

    /// One request, timed from the first byte to the last of its answer.
    pub(crate) async fn call(&mut self, line: &str, times: &mut Histogram<u64>) -> &[u8] {
        let begun = Instant::now();
        self.send(line).await;
        self.answer().await;
        times.saturating_record(begun.elapsed().as_nanos() as u64);
        &self.input[..self.taken - 1]
    }

    pub(crate) async fn call_json(&mut self, line: &str) -> serde_json::Value {
        self.send(line).await;
        serde_json::from_slice(self.answer().await).unwrap()
    }

    /// A node of the task, or None when there is none now.
    pub(crate) async fn acquire(
        &mut self,
        task: &str,
        wait_secs: u32,
        times: &mut Histogram<u64>,
    ) -> Option<Leased> {
        let line = format!(
            "{{\"method\":\"AcquireNextNode\",\"params\":{{\"task_id\":\"{task}\",\"wait_secs\":{wait_secs}}}}}\n"
        );
        leased(self.call(&line, times).await)
    }

    pub(crate) async fn complete(&mut self, task: &str, node: &Leased, times: &mut Histogram<u64>) {
        let line = complete_line(task, node);
        self.call(&line, times).await;
    }
}

pub(crate) fn complete_line(task: &str, node: &Leased) -> String {
    let Leased { node_id, lease_id } = node;
    format!(
        "{{\"method\":\"CompleteNode\",\"params\":{{\"task_id\":\"{task}\",\"node_id\":\"{node_id}\",\
         \"lease_id\":\"{lease_id}\",\"result_payload\":{{\"ok\":true}}}}}}\n"
    )
}

fn starts(line: &[u8], text: &str) -> bool {
    line.starts_with(text.as_bytes())
}

// The ids stand at the beginning of the answer: the rest, some ten kilobytes, is only read.
pub(crate) fn leased(line: &[u8]) -> Option<Leased> {
    if starts(line, "{\"result\":null") {
        return None;
    }
    let head = std::str::from_utf8(&line[..line.len().min(400)]).unwrap_or_default();
    let field = |name: &str| {
        let at = head.find(name).unwrap_or_else(|| panic!("no {name} in {head}")) + name.len();
        head[at..at + 36].to_owned()
    };
    Some(Leased {
        node_id: field("\"node_id\":\""),
        lease_id: field("\"lease_id\":\""),
    })
}
