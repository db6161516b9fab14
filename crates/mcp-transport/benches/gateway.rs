//! What the gateway adds, side by side in one run: a plugin over its own pipes, through the gateway's socket, and over
//! HTTP. `cargo bench -p mcp-transport [-- CALLS]`
#![allow(clippy::unwrap_used, reason = "a benchmark that fails has nothing to tell")]

use hdrhistogram::Histogram;
use mcp_transport::process::ProcessOptions;
use mcp_transport::{Gateway, GatewayOptions, PluginOptions, Source};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const FIXTURE: &str = env!("CARGO_BIN_EXE_mcp-fixture");

fn main() {
    let calls = std::env::args()
        .skip(1)
        .find_map(|word| word.parse().ok())
        .unwrap_or(5000);
    let dir = tempfile::tempdir().unwrap();
    let (lines, http) = (dir.path().join("lines.sock"), dir.path().join("http.sock"));
    let (ready, is_ready) = std::sync::mpsc::channel();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let (listener, http_listener) = (
        std::os::unix::net::UnixListener::bind(&lines).unwrap(),
        std::os::unix::net::UnixListener::bind(&http).unwrap(),
    );
    // Begun only when memory was looked at without it.
    let (begin, begun) = std::sync::mpsc::channel::<()>();
    let server = std::thread::spawn(move || {
        begun.recv().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let source = Source::Process(ProcessOptions {
                argv: vec![FIXTURE.into(), "legacy".into()],
                env: Vec::new(),
                cwd: "/".into(),
            });
            let gateway = Gateway::start(GatewayOptions::new(vec![PluginOptions::new("p", source)]))
                .await
                .unwrap();
            let listen = |listener: std::os::unix::net::UnixListener| {
                listener.set_nonblocking(true).unwrap();
                tokio::net::UnixListener::from_std(listener).unwrap()
            };
            gateway.serve_unix(listen(listener));
            gateway.serve_http_unix(listen(http_listener), None);
            ready.send(()).unwrap();
            let _ = stopped.await;
            gateway.stop().await;
        });
    });
    let before = pss_kib();
    begin.send(()).unwrap();
    is_ready.recv().unwrap();
    println!(
        "memory: {before} KiB PSS without a gateway, {} KiB with one that serves",
        pss_kib()
    );

    let mut child = Command::new(FIXTURE)
        .arg("legacy")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut direct = Peer::new(child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let stream = UnixStream::connect(&lines).unwrap();
    let mut socket = Peer::new(stream.try_clone().unwrap(), stream);
    let port = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || mcp_transport::bridge::serve_http(&listener, http));
        port
    };
    let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_nodelay(true).unwrap();
    let mut web = Web(BufReader::new(stream));

    let text = "x".repeat(64);
    let call = |plugin: &str, id: u64| {
        format!(
            r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"{plugin}echo","arguments":{{"text":"{text}"}}}}}}"#
        )
    };
    // In turns, so that whatever else the machine does meets all of them.
    let mut times = [const { Vec::new() }; 3];
    for id in 0..calls + 200 {
        let took = [
            timed(|| direct.ask(&call("", id))),
            timed(|| socket.ask(&call("p__", id))),
            timed(|| web.ask(&call("p__", id).replace("\"arguments\"", &format!("{META},\"arguments\"")))),
        ];
        if id >= 200 {
            for (times, took) in times.iter_mut().zip(took) {
                times.push(took);
            }
        }
    }
    println!("{calls} calls, 64 bytes, one in flight     p50 µs   p99 µs");
    let base = report("direct stdio", &times[0], None);
    report("gateway, socket", &times[1], Some(base));
    report("gateway, HTTP through the bridge", &times[2], Some(base));

    let big = |plugin: &str| {
        format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"{plugin}big","arguments":{{"bytes":262144}}}}}}"#
        )
    };
    let mut times = [const { Vec::new() }; 2];
    for _ in 0..300 {
        times[0].push(timed(|| direct.ask(&big(""))));
        times[1].push(timed(|| socket.ask(&big("p__"))));
    }
    println!(
        "memory: {} KiB PSS after the calls, times of {} calls included",
        pss_kib(),
        3 * calls
    );
    println!("256 KiB result");
    let base = report("direct stdio", &times[0], None);
    report("gateway, socket", &times[1], Some(base));

    let begun = Instant::now();
    let rounds = 20;
    for _ in 0..rounds {
        let all: String = (0..64).map(|id| call("p__", id) + "\n").collect();
        socket.writer.write_all(all.as_bytes()).unwrap();
        let mut seen: Vec<u64> = (0..64)
            .map(|_| {
                let answer: serde_json::Value = serde_json::from_str(&socket.read()).unwrap();
                assert!(answer["result"].is_object());
                answer["id"].as_u64().unwrap()
            })
            .collect();
        seen.sort_unstable();
        assert!(seen.into_iter().eq(0..64));
    }
    let each = begun.elapsed() / (rounds * 64);
    println!("64 in flight: none lost, {} µs a call", each.as_micros());
    println!(
        "memory of this process, gateway and clients, after all: {} KiB PSS",
        pss_kib()
    );
    drop(direct);
    let _ = child.wait();
    let _ = stop.send(());
    server.join().unwrap();
}

const META: &str = r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}"#;

fn timed(work: impl FnOnce() -> String) -> Duration {
    let begun = Instant::now();
    let answer = work();
    let took = begun.elapsed();
    assert!(
        answer.contains("\"result\""),
        "{}",
        &answer[..answer.len().min(300)]
    );
    took
}

fn report(what: &str, times: &[Duration], base: Option<(u64, u64)>) -> (u64, u64) {
    let mut histogram = Histogram::<u64>::new(3).unwrap();
    for time in times {
        histogram.record(u64::try_from(time.as_nanos()).unwrap()).unwrap();
    }
    let quantile = |at| histogram.value_at_quantile(at) / 1000;
    let (half, most) = (quantile(0.5), quantile(0.99));
    let added = base.map(|base| {
        format!(
            "   added {} / {}",
            half as i64 - base.0 as i64,
            most as i64 - base.1 as i64
        )
    });
    println!("  {what:38} {half:6}   {most:6}{}", added.unwrap_or_default());
    (half, most)
}

fn pss_kib() -> u64 {
    let rollup = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap();
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

struct Peer<W> {
    writer: W,
    reader: Box<dyn BufRead>,
}

impl<W: Write> Peer<W> {
    fn new(writer: W, reader: impl Read + 'static) -> Self {
        let reader = Box::new(BufReader::with_capacity(64 * 1024, reader));
        Self { writer, reader }
    }

    fn ask(&mut self, message: &str) -> String {
        self.writer.write_all(format!("{message}\n").as_bytes()).unwrap();
        self.read()
    }

    fn read(&mut self) -> String {
        let mut line = String::new();
        self.reader.read_line(&mut line).unwrap();
        line
    }
}

struct Web(BufReader<TcpStream>);

impl Web {
    fn ask(&mut self, message: &str) -> String {
        let request = format!(
            "POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nAccept: application/json, text/event-stream\r\n\
             MCP-Protocol-Version: 2026-07-28\r\nMcp-Method: tools/call\r\nMcp-Name: p__echo\r\nContent-Length: {}\r\n\r\n{message}",
            message.len()
        );
        self.0.get_mut().write_all(request.as_bytes()).unwrap();
        let mut length = 0;
        loop {
            let mut line = String::new();
            self.0.read_line(&mut line).unwrap();
            if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
            if line == "\r\n" {
                break;
            }
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).unwrap();
        String::from_utf8(body).unwrap()
    }
}
