// Both servers listen on every interface and have no option against it. A test's server listens on loopback.
const net = require("node:net");

const listen = net.Server.prototype.listen;
net.Server.prototype.listen = function (...args) {
  const [first, ...rest] = args;
  if (first !== null && typeof first === "object" && "port" in first) {
    return listen.call(this, { ...first, host: "127.0.0.1" }, ...rest);
  }
  const after = typeof rest[0] === "string" ? rest.slice(1) : rest;
  return listen.call(this, first, "127.0.0.1", ...after);
};
