//! The gateway held to the official conformance suite: what `scripts/conformance.sh` runs.
//!
//! ```text
//!   conformance plugin                       the plugin that the suite asks for, over stdio
//!   conformance serve REVISION COMMAND…      a gateway before it; the command's {url} is the gateway's
//!   conformance client URL                   a gateway before the suite's server, and a client that uses it
//!   conformance smoke TOOL JSON COMMAND…     a gateway before any server over stdio, and one call of a tool
//! ```

#![allow(clippy::unwrap_used, reason = "a test that fails says so")]
#![allow(deprecated, reason = "the older revisions are held to, too")]

mod client;
mod plugin;

use client::{Client, capabilities, of_kind};
use mcp_transport::process::ProcessOptions;
use mcp_transport::{Gateway, GatewayOptions, Lifecycle, PluginOptions, RemoteOptions, Source};
use rmcp::ServiceExt;
use serde_json::{Value, json};
use std::error::Error;
use std::ffi::OsString;
use std::process::ExitCode;
use tokio::net::{TcpListener, UnixListener, UnixStream};

type Done = Result<ExitCode, Box<dyn Error>>;

#[tokio::main]
async fn main() -> Done {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let all: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match all.as_slice() {
        ["plugin"] => {
            let service = plugin::Plugin::new().serve(rmcp::transport::stdio()).await?;
            service.waiting().await?;
            Ok(ExitCode::SUCCESS)
        }
        ["serve", revision, command @ ..] => serve(revision, command).await,
        ["client", url] => use_remote(url).await,
        ["smoke", tool, arguments, command @ ..] => smoke(tool, arguments, command).await,
        _ => Err("what is to be done: plugin, serve, client, or smoke".into()),
    }
}

fn process(name: &str, argv: Vec<OsString>) -> PluginOptions {
    let env = std::env::var_os("PATH").map(|path| ("PATH".into(), path));
    let cwd = std::env::current_dir().unwrap_or_else(|_| "/".into());
    let options = ProcessOptions {
        argv,
        env: env.into_iter().collect(),
        cwd,
    };
    PluginOptions::new(name, Source::Process(options))
}

async fn serve(revision: &str, command: &[&str]) -> Done {
    let myself = std::env::current_exe()?;
    let mut plugin = process("conformance", vec![myself.into(), "plugin".into()]);
    plugin.prefixed = false;
    plugin.lifecycle = match revision {
        "2025-11-25" => Lifecycle::Initialize,
        "2026-07-28" => Lifecycle::Discover,
        _ => return Err(format!("no plugin speaks {revision}").into()),
    };
    let mut options = GatewayOptions::new(vec![plugin]);
    options.client_capabilities = capabilities();
    let gateway = Gateway::start(options).await?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/mcp", listener.local_addr()?);
    gateway.serve_http_tcp(listener, None);
    let (program, arguments) = command.split_first().ok_or("a command is missing")?;
    let arguments = arguments.iter().map(|argument| argument.replace("{url}", &url));
    let status = tokio::process::Command::new(program)
        .args(arguments)
        .status()
        .await?;
    let said = gateway.stderr("conformance").unwrap_or_default();
    gateway.stop().await;
    if !status.success() && !said.is_empty() {
        eprintln!("the plugin said:\n{said}");
    }
    Ok(if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Does with a server whatever the suite's scenario wants to see done: that is, everything.
async fn use_remote(url: &str) -> Done {
    let source = Source::Remote(RemoteOptions {
        url: url.into(),
        bearer: None,
    });
    let mut plugin = PluginOptions::new("remote", source);
    plugin.prefixed = false;
    let mut options = GatewayOptions::new(vec![plugin]);
    options.client_capabilities = capabilities();
    let gateway = Gateway::start(options).await?;
    let (near, far) = tokio::io::duplex(64 * 1024);
    let (far_reader, far_writer) = tokio::io::split(far);
    let (reader, writer) = tokio::io::split(near);
    let using = async {
        let mut client = Client::begin(reader, writer).await?;
        let tools = client.list("tools").await?;
        let wanted: Value = std::env::var("MCP_CONFORMANCE_CONTEXT").map_or(Value::Null, |text| {
            serde_json::from_str(&text).unwrap_or_default()
        });
        let calls = match wanted["toolCalls"].as_array() {
            Some(calls) => calls.clone(),
            None => tools.iter().map(a_call).collect(),
        };
        for call in calls {
            let answer = client.ask("tools/call", call).await?;
            eprintln!("{answer}");
        }
        for resource in client.list("resources").await? {
            client
                .ask("resources/read", json!({"uri": resource["uri"]}))
                .await?;
        }
        for prompt in client.list("prompts").await? {
            client.ask("prompts/get", json!({"name": prompt["name"]})).await?;
        }
        Ok::<_, std::io::Error>(())
    };
    tokio::select! {
        used = using => used?,
        () = gateway.serve_stream(far_reader, far_writer) => return Err("the gateway has ended".into()),
    }
    gateway.stop().await;
    Ok(ExitCode::SUCCESS)
}

/// A call of a tool with an argument for each of its parameters.
fn a_call(tool: &Value) -> Value {
    let parameters = tool["inputSchema"]["properties"].as_object();
    let arguments = parameters.into_iter().flatten();
    let arguments = arguments.map(|(name, schema)| (name.clone(), of_kind(schema)));
    json!({"name": tool["name"], "arguments": arguments.collect::<serde_json::Map<_, _>>()})
}

async fn smoke(tool: &str, arguments: &str, command: &[&str]) -> Done {
    let argv = command.iter().map(|&argument| argument.into()).collect();
    let gateway = Gateway::start(GatewayOptions::new(vec![process("server", argv)])).await?;
    let dir = tempfile::tempdir()?;
    let socket = dir.path().join("mcp.sock");
    gateway.serve_unix(UnixListener::bind(&socket)?);
    let (reader, writer) = UnixStream::connect(&socket).await?.into_split();
    let mut client = Client::begin(reader, writer).await?;
    let tools = client.list("tools").await?;
    let name = format!("server__{tool}");
    if tools.iter().all(|tool| tool["name"] != name.as_str()) {
        return Err(format!("there is no tool {name}").into());
    }
    let arguments: Value = serde_json::from_str(arguments)?;
    let answer = client
        .ask("tools/call", json!({"name": name, "arguments": arguments}))
        .await?;
    gateway.stop().await;
    if answer["result"]["content"][0].is_null() || answer["result"]["isError"] == true {
        return Err(format!("{name} answered {answer}").into());
    }
    println!(
        "{name}, one of {} tools: {}",
        tools.len(),
        answer["result"]["content"][0]
    );
    Ok(ExitCode::SUCCESS)
}
