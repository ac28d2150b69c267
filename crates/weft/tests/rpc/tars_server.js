// A Tars server on @tars/rpc: tars_server.js PORT NAME.
'use strict';
const Stream = require('@tars/stream');
const Tars = require('@tars/rpc');

const [, , port, name] = process.argv;
let notes = 0;

function Cart() {}
Cart.prototype.initialize = function () {};
Cart.prototype.onDispatch = function (current, method, buffer) {
  const tup = [2, 3].includes(current.getRequestVersion());
  const answer = value => {
    if (tup) {
      const values = new Stream.UniAttribute();
      values.tupVersion = current.getRequestVersion();
      values.writeString('', value);
      current.doResponse(values.encode());
    } else {
      const out = new Stream.TarsOutputStream();
      out.writeString(0, value);
      current.doResponse(out.getBinBuffer());
    }
  };
  let item;
  if (tup) {
    const values = new Stream.UniAttribute();
    values.tupVersion = current.getRequestVersion();
    values.decode(buffer);
    item = values.readString('item');
  } else {
    item = new Stream.TarsInputStream(buffer).readString(1, true);
  }
  switch (method) {
    case 'where': answer(name); break;
    case 'payload': answer(item); break;
    case 'notes': answer(String(notes)); break;
    case 'note': notes += 1; break;
    case 'tag': answer(current.getContext().tag || ''); break;
    case 'slow': setTimeout(() => answer('slept'), Number(item)); break;
    case 'fail': current.sendErrorResponse(42, item); break;
    default: return -3;
  }
  return 0;
};

Tars.server.createServer(Cart).start({
  name: 'Cart', servant: 'shop.Cart', maxconns: 1000, protocol: 'tars',
  endpoint: `tcp -h 127.0.0.1 -p ${port} -t 60000`,
});
setTimeout(() => console.log(JSON.stringify({ ready: true })), 300);
