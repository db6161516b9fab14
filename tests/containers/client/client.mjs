// A small MCP client without any library, for an agent in a container that has no network: it calls the reference servers
// over the bridge, over the socket and over HTTP, in both kinds of revision, and says what it found. Exits with 1 at the
// first answer that is not as it has to be. `client.mjs PORT`

import { spawn } from "node:child_process";
import { once } from "node:events";
import fs from "node:fs";
import net from "node:net";
import os from "node:os";
import readline from "node:readline";

const { AGENTD_MCP_BRIDGE: bridge, AGENTD_MCP_SOCKET: socket, AGENTD_MCP_TOKEN: token } = process.env;
const port = Number(process.argv[2]);
const LEGACY = "2025-11-25";
const MODERN = "2026-07-28";
// What every request of the newer revision says of itself.
const META = {
  "io.modelcontextprotocol/protocolVersion": MODERN,
  "io.modelcontextprotocol/clientInfo": { name: "small", version: "1" },
  "io.modelcontextprotocol/clientCapabilities": {},
};

function check(holds, what, seen) {
  if (holds) return;
  console.log(`WRONG ${what}: ${JSON.stringify(seen)}`);
  process.exit(1);
}

// What every way has: `exchange(message)` gives the answer to a request, and nothing for a notification.
function lines(readable, writable) {
  const waiting = new Map();
  readline.createInterface({ input: readable }).on("line", (line) => {
    const message = JSON.parse(line);
    waiting.get(message.id)?.(message);
  });
  return (message) => {
    writable.write(JSON.stringify(message) + "\n");
    return message.id === undefined ? undefined : new Promise((done) => waiting.set(message.id, done));
  };
}

function http(url) {
  let session;
  return async (message) => {
    const headers = {
      authorization: `Bearer ${token}`,
      "content-type": "application/json",
      accept: "application/json, text/event-stream",
    };
    if (session) headers["mcp-session-id"] = session;
    if (message.params?._meta) {
      headers["mcp-protocol-version"] = MODERN;
      headers["mcp-method"] = message.method;
      if (message.params.name) headers["mcp-name"] = message.params.name;
    } else if (message.method !== "initialize") {
      headers["mcp-protocol-version"] = LEGACY;
    }
    const response = await fetch(url, { method: "POST", headers, body: JSON.stringify(message) });
    const text = await response.text();
    check(response.ok, `HTTP ${message.method}`, [response.status, text]);
    session = response.headers.get("mcp-session-id") ?? session;
    if (message.id === undefined) return undefined;
    if (!response.headers.get("content-type").includes("event-stream")) return JSON.parse(text);
    const events = text.split("\n").filter((line) => line.startsWith("data: {"));
    return events.map((line) => JSON.parse(line.slice(6))).find((event) => event.id === message.id);
  };
}

async function use(way, revision, exchange) {
  let id = 0;
  const ask = async (method, params = {}) => {
    if (revision === MODERN) params._meta = META;
    const answer = await exchange({ jsonrpc: "2.0", id: ++id, method, params });
    check(answer?.result, `${way} ${revision} ${method}`, answer);
    return answer.result;
  };
  const call = async (name, args = {}) => {
    const result = await ask("tools/call", { name, arguments: args });
    return { failed: result.isError === true, text: result.content?.[0]?.text ?? "" };
  };
  const said = async (name, args, wanted) => {
    const result = await call(name, args);
    check(!result.failed && result.text.includes(wanted), `${way} ${revision} ${name}`, result);
  };

  if (revision === LEGACY) {
    const clientInfo = { name: "small", version: "1" };
    const hello = await ask("initialize", { protocolVersion: LEGACY, capabilities: {}, clientInfo });
    check(hello.protocolVersion === LEGACY, `${way} initialize`, hello);
    await exchange({ jsonrpc: "2.0", method: "notifications/initialized" });
  } else {
    const found = await ask("server/discover");
    check(found.supportedVersions.includes(MODERN), `${way} server/discover`, found);
  }
  const names = (await ask("tools/list")).tools.map((tool) => tool.name);
  const wanted = ["everything__echo", "filesystem__write_file", "memory__read_graph", "agentd__whoami"];
  check(wanted.every((name) => names.includes(name)), `${way} tools/list`, names);
  check(!names.includes("filesystem__move_file"), `${way} tools/list hides`, names);

  const mark = `${way}-${revision}-${process.env.AGENTD_SESSION_ID}`;
  const files = process.env.FILES;
  await said("everything__echo", { message: mark }, mark);
  await said("everything__get-sum", { a: 2, b: 40 }, "42");
  await said("filesystem__write_file", { path: `${files}/${mark}`, content: mark }, "rote");
  await said("filesystem__read_text_file", { path: `${files}/${mark}` }, mark);
  const outside = await call("filesystem__read_text_file", { path: "/etc/hostname" });
  check(outside.failed && outside.text.includes("denied"), `${way} a file outside`, outside);
  const entity = { name: mark, entityType: "test", observations: ["from inside"] };
  await said("memory__create_entities", { entities: [entity] }, mark);
  await said("memory__search_nodes", { query: mark }, "from inside");
  await said("agentd__whoami", {}, process.env.AGENT_NAME);
  const params = { name: "filesystem__move_file", arguments: {}, ...(revision === MODERN && { _meta: META }) };
  const hidden = await exchange({ jsonrpc: "2.0", id: "hidden", method: "tools/call", params });
  check(hidden.error || hidden.result.isError, `${way} a tool that is denied`, hidden);
  console.log(`${way} ${revision}: ${names.length} tools`);
}

// The bridge does not say when it listens.
async function listens() {
  for (;;) {
    const stream = net.connect(port, "127.0.0.1");
    const came = await Promise.race([once(stream, "connect").then(() => true, () => false), once(stream, "close").then(() => false)]);
    stream.destroy();
    if (came) return;
    await new Promise((done) => setTimeout(done, 20));
  }
}

// There is no network, and what the servers see is not there.
const interfaces = Object.keys(os.networkInterfaces()).filter((name) => name !== "lo");
check(interfaces.length === 0, "a network", interfaces);
check(!fs.existsSync(process.env.FILES), "files of the host", process.env.FILES);

await listens();
for (const revision of [LEGACY, MODERN]) {
  const child = spawn(bridge, { stdio: ["pipe", "pipe", "inherit"] });
  await use("stdio", revision, lines(child.stdout, child.stdin));
  child.stdin.end();
  const [code] = await once(child, "exit");
  check(code === 0, "the bridge's end", code);

  const stream = net.connect(socket);
  await use("socket", revision, lines(stream, stream));
  stream.end();
  await use("http", revision, http(`http://127.0.0.1:${port}/mcp`));
}
const stranger = await fetch(`http://127.0.0.1:${port}/mcp`, {
  method: "POST",
  headers: { "content-type": "application/json", accept: "application/json", authorization: "Bearer other" },
  body: "{}",
});
check(stranger.status === 401, "HTTP with another token", stranger.status);
