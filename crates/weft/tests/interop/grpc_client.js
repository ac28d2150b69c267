// Calls the target as often as each line of standard input says, and counts the answers.
'use strict';

const grpc = require('@grpc/grpc-js');
const readline = require('node:readline');

require('@grpc/grpc-js-xds').register();

const AT_ONCE = 8;
const DEADLINE_MS = 30_000;

const client = new grpc.Client(process.argv[2], grpc.credentials.createInsecure());
const same = (bytes) => bytes;

function call() {
  const metadata = new grpc.Metadata();
  const options = { deadline: Date.now() + DEADLINE_MS };
  const path = '/weft.test.Echo/Version';
  return new Promise((resolve) => {
    client.makeUnaryRequest(path, same, same, Buffer.alloc(0), metadata, options, (error, answer) =>
      resolve(error ? `${grpc.status[error.code]}: ${error.details}` : answer.toString()));
  });
}

async function count(calls) {
  const seen = {};
  let left = calls;
  const caller = async () => {
    while (left-- > 0) {
      const answer = await call();
      seen[answer] = (seen[answer] ?? 0) + 1;
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, caller));
  return seen;
}

async function main() {
  for await (const line of readline.createInterface({ input: process.stdin })) {
    console.log(JSON.stringify(await count(Number(line))));
  }
  process.exit(0);
}

main();
