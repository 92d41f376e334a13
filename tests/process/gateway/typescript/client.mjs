// The TypeScript SDK as a client, of version 1 or 2: connects as its argument says, and prints what it got as JSON.

const { sdk, pin, stdio, url, headers } = JSON.parse(process.argv[2]);

async function load() {
  if (sdk === 2) {
    const { Client, StreamableHTTPClientTransport } = await import("@modelcontextprotocol/client");
    const { StdioClientTransport } = await import("@modelcontextprotocol/client/stdio");
    return { Client, StreamableHTTPClientTransport, StdioClientTransport, kinds: {} };
  }
  const { Client } = await import("@modelcontextprotocol/sdk/client/index.js");
  const { StdioClientTransport } = await import("@modelcontextprotocol/sdk/client/stdio.js");
  const { StreamableHTTPClientTransport } = await import("@modelcontextprotocol/sdk/client/streamableHttp.js");
  const types = await import("@modelcontextprotocol/sdk/types.js");
  const kinds = {
    "elicitation/create": types.ElicitRequestSchema,
    "sampling/createMessage": types.CreateMessageRequestSchema,
    "roots/list": types.ListRootsRequestSchema,
    "notifications/tools/list_changed": types.ToolListChangedNotificationSchema,
  };
  return { Client, StreamableHTTPClientTransport, StdioClientTransport, kinds };
}

const { Client, StreamableHTTPClientTransport, StdioClientTransport, kinds } = await load();
const kind = (method) => kinds[method] ?? method;
const client = new Client(
  { name: "a test", version: "1" },
  {
    capabilities: { elicitation: {}, sampling: {}, roots: {} },
    versionNegotiation: { mode: pin ? { pin } : "legacy" },
  },
);
const word = (text) => ({ type: "text", text });
client.setRequestHandler(kind("elicitation/create"), async () => ({ action: "accept", content: { word: "elicited" } }));
client.setRequestHandler(kind("sampling/createMessage"), async () => ({
  model: "a model",
  role: "assistant",
  content: word("sampled"),
}));
client.setRequestHandler(kind("roots/list"), async () => ({ roots: [{ uri: "file:///a%20root" }] }));
let changed;
const changes = new Promise((resolve) => (changed = resolve));
client.setNotificationHandler(kind("notifications/tools/list_changed"), () => changed(true));

await client.connect(
  stdio
    ? new StdioClientTransport({ ...stdio, stderr: "ignore" })
    : new StreamableHTTPClientTransport(new URL(url), { requestInit: { headers } }),
);

const call = async (name, args = {}, options = undefined) => {
  const parameters = { name, arguments: args };
  const result = await (sdk === 2
    ? client.callTool(parameters, options)
    : client.callTool(parameters, undefined, options));
  return result.content.map((part) => part.text).join(" ");
};
const progress = [];
const seen = { tools: (await client.listTools()).tools.map((tool) => tool.name) };
seen.echo = await call("echo", { word: "größe", region: "grüße", count: 7, urgent: true, filter: { label: " x " } });
seen.progress = await call("progress", {}, { onprogress: (step) => progress.push(step.message) });
seen.steps = progress;
for (const name of ["elicit", "sample", "roots", "poll"]) {
  seen[name] = await call(name);
}
seen.large = (await call("large", { size: 5_000_000 })).length;
if (pin) {
  await client.listen({ toolsListChanged: true });
} else {
  await new Promise((resolve) => setTimeout(resolve, 300)); // until its stream for announcements is open
}
await call("add_tool");
seen.changed = await Promise.race([changes, new Promise((resolve) => setTimeout(resolve, 10_000, false))]);
await client.close();
console.log(JSON.stringify(seen));
process.exit(0);
