// A Tars client on @tars/rpc, one connection for all calls: tars_client.js PORT.
// A JSON command a line, a JSON answer a line.
'use strict';
const readline = require('readline');
const Stream = require('@tars/stream');
const Tars = require('@tars/rpc');

const [, , port] = process.argv;
const proxies = new Map();

function Proxy() {
  this._name = undefined;
  this._worker = undefined;
}

function proxy(service) {
  if (!proxies.has(service)) {
    const at = `${service}@tcp -h 127.0.0.1 -p ${port} -t 60000`;
    proxies.set(service, Tars.client.stringToProxy(Proxy, at));
  }
  return proxies.get(service);
}

async function call({ service = 'shop.Cart', method, item = '', timeout = 20000, oneway, context }) {
  const worker = proxy(service)._worker;
  worker.timeout = timeout;
  const out = new Stream.TarsOutputStream();
  out.writeString(1, item);
  const options = { context };
  if (oneway) options.packetType = 1;
  const pending = worker.tars_invoke(method, out.getBinBuffer(), options);
  if (oneway) return { sent: true };
  try {
    const { response } = await pending;
    return { value: new Stream.TarsInputStream(response.sBuffer).readString(0, true) };
  } catch (failed) {
    const error = (failed.response && failed.response.error) || failed.error || failed;
    return { code: error.code, error: String(error.message || error) };
  }
}

async function run(command) {
  if (command.op === 'call') return call(command);
  if (command.op === 'payload') {
    const text = 'äß'.repeat(command.count);
    const answer = await call({ method: 'payload', item: text });
    return { same: answer.value === text, ...(answer.error ? answer : {}) };
  }
  const seen = {};
  for (let done = 0; done < command.times;) {
    const batch = Math.min(100, command.times - done);
    const calls = Array.from({ length: batch }, () => call(command));
    for (const answer of await Promise.all(calls)) {
      const value = answer.value || answer.error;
      seen[value] = (seen[value] || 0) + 1;
    }
    done += batch;
  }
  return { seen };
}

readline.createInterface({ input: process.stdin }).on('line', async line => {
  let answer;
  try {
    answer = await run(JSON.parse(line));
  } catch (error) {
    answer = { broken: String(error.stack || error) };
  }
  console.log(JSON.stringify(answer));
}).on('close', () => process.exit(0));
