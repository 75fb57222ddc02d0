// A client on @xmpp/client, for tests: it logs in by SASL2 and Bind 2, asks for a token (XEP-0484) and
// enables stream management (XEP-0198). Told "again" it cuts its connection and comes back, with the
// token, to resume its session; told "bye" it leaves. It tells
// what happens to it, one line each on standard output.
//
// usage: client.js DOMAIN USER SCHEME ADDRESS PORT; the password is in $PASSWORD, the CA in
// $NODE_EXTRA_CA_CERTS.

import { webcrypto } from "node:crypto";
import dns from "node:dns";

const [domain, username, scheme, address, port] = process.argv.slice(2);

// The certificate is for the domain, so that has to be the host.
dns.lookup = (host, options, done) =>
  options.all ? done(null, [{ address, family: 4 }]) : done(null, address, 4);

globalThis.crypto ??= webcrypto; // where node is older than 19
const { client, xml } = await import("@xmpp/client");

const tell = (...words) => console.log(words.join(" "));

const xmpp = client({
  service: `${scheme}://${domain}:${port}`,
  domain,
  username,
  password: process.env.PASSWORD,
  resource: "xmppjs",
  userAgent: xml("user-agent", { id: "d4565fa7-4d72-4749-b3d3-740edbf87770" }, [
    xml("software", {}, "xmpp.js"),
    xml("device", {}, "a test"),
  ]),
});
xmpp.reconnect.delay = 1;

let token;
xmpp.fast.saveToken = async (t) => {
  token = t;
  tell("token", t.mechanism);
};
xmpp.fast.fetchToken = async () => token;
xmpp.fast.deleteToken = async () => {
  token = undefined;
  tell("token refused");
};

xmpp.on("error", (err) => tell("error", err.message));
xmpp.on("element", (el) => {
  if (el.is("success")) tell("success", el.getNS());
});
xmpp.on("online", async (full) => {
  tell("online", full.toString());
  await xmpp.send(xml("presence", {}, xml("status", {}, "xmpp.js is here")));
});
xmpp.streamManagement.on("resumed", () => tell("resumed"));
xmpp.on("stanza", async (stanza) => {
  const body = stanza.is("message") && stanza.getChildText("body");
  if (!body) return;
  tell("message", stanza.attrs.from, body);
  switch (body) {
    case "again":
      xmpp.socket.end();
      break;
    case "bye":
      xmpp.reconnect.stop();
      await xmpp.stop();
      tell("offline");
      break;
    default:
      await xmpp.send(
        xml("message", { to: stanza.attrs.from, type: "chat" }, xml("body", {}, `you said: ${body}`)),
      );
  }
});

await xmpp.start();
