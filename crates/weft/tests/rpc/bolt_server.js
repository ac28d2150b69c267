// A sofa-rpc-node server: bolt_server.js PORT NAME. Says what it has seen on a line that begins with `{`.
'use strict';
const { RpcServer } = require('sofa-rpc-node').server;

const [, , port, name] = process.argv;
const logger = { info() {}, debug() {}, warn() {}, error(error) { console.error(error); } };
const server = new RpcServer({ port: Number(port), logger });
let notes = 0;
server.addService({ interfaceName: 'shop.Cart' }, {
  async where() { return name; },
  async payload(text) { return text; },
  async note() { notes += 1; },
  async notes() { return notes; },
  async fail(text) { throw new Error(text); },
  async slow(milliseconds) {
    await new Promise(resolve => setTimeout(resolve, milliseconds));
    return name;
  },
});
server.start().then(() => console.log('{"ready": true}'));
process.stdin.on('end', () => process.exit(0)).resume();
