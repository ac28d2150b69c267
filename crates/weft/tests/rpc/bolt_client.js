// A Bolt client on sofa-bolt-node's own protocol, one connection for all calls:
// bolt_client.js PORT VERSION CRC. A JSON command a line, a JSON answer a line.
'use strict';
const net = require('net');
const readline = require('readline');
const Encoder = require('sofa-bolt-node/lib/encoder');
const Decoder = require('sofa-bolt-node/lib/decoder');

const [, , port, version, crc] = process.argv;
const options = {
  protocolType: version === '2' ? 'bolt2' : 'bolt',
  boltVersion: version,
  codecType: 'hessian2',
  crcEnable: crc === 'crc',
};
const waiting = new Map();
let id = 0;
let connections = 0;
let encoder;

function connect() {
  connections += 1;
  const sentReqs = new Map();
  encoder = new Encoder(Object.assign({ sentReqs }, options));
  Object.assign(encoder, options);
  const decoder = new Decoder({ sentReqs });
  const socket = net.connect(Number(port), '127.0.0.1');
  socket.setNoDelay(true);
  encoder.pipe(socket).pipe(decoder);
  const settle = (packet, value) => {
    const call = waiting.get(packet.packetId);
    waiting.delete(packet.packetId);
    if (call) call(value);
  };
  decoder.on('response', packet => {
    const { error, appResponse } = packet.data;
    settle(packet, error ? { error: error.message } : { value: appResponse });
  });
  decoder.on('heartbeat_ack', packet => settle(packet, { alive: true }));
  const lost = () => {
    for (const call of waiting.values()) call({ error: 'closed' });
    waiting.clear();
  };
  socket.on('close', lost);
  socket.on('error', lost);
}

// Servers in Java choose a method by the classes of its arguments.
function typed(arg) {
  const $class = typeof arg === 'number' ? 'int' : 'java.lang.String';
  return { $class, $: arg };
}

function request(service, method, args, timeout, oneway) {
  id += 1;
  const packet = {
    serverSignature: service, methodName: method, args: args.map(typed), timeout, oneway,
    targetAppName: 'shop', requestProps: null,
  };
  return new Promise(resolve => {
    if (!oneway) waiting.set(id, resolve);
    encoder.writeRequest(id, packet, error => {
      if (error) resolve({ error: error.message });
      else if (oneway) resolve({ sent: true });
    });
  });
}

async function run({ op, service = 'shop.Cart:1.0', method, args = [], timeout = 3000, times }) {
  switch (op) {
    case 'call': return request(service, method, args, timeout, false);
    case 'oneway': return request(service, method, args, timeout, true);
    case 'payload': {
      const text = 'ä'.repeat(args[0]);
      const { error, value } = await request(service, 'payload', [ text ], timeout, false);
      return { error, same: value === text };
    }
    case 'heartbeat':
      id += 1;
      return new Promise(resolve => {
        waiting.set(id, resolve);
        encoder.writeHeartbeat(id, { timeout: 1000 });
      });
    case 'many': {
      const seen = {};
      const batch = 100;
      for (let done = 0; done < times; done += batch) {
        const calls = Array.from({ length: batch }, () => request(service, method, args, timeout, false));
        for (const { error, value } of await Promise.all(calls)) {
          const key = error ? `error: ${error}` : value;
          seen[key] = (seen[key] || 0) + 1;
        }
      }
      return { seen };
    }
    default: return { error: `unknown ${op}` };
  }
}

connect();
readline.createInterface({ input: process.stdin }).on('line', async line => {
  const answer = await run(JSON.parse(line));
  console.log(JSON.stringify(Object.assign({ connections }, answer)));
});
