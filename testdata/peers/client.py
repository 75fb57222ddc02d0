"""A client on slixmpp, for tests: it logs in and tells what happens to it, one line each on standard
output, in quotes where it is text from elsewhere. It answers what it is told, until that is "bye".

usage: client.py JID HOST PORT starttls|direct CA-FILE; the password is in $PASSWORD.
"""

import asyncio
import json
import os
import sys

import slixmpp


def tell(what, *values):
    print(what, *(json.dumps(str(v)) for v in values), flush=True)


class Client(slixmpp.ClientXMPP):
    def __init__(self, jid, password):
        super().__init__(jid, password)
        self.add_event_handler("session_start", self.start)
        self.add_event_handler("presence", self.presence)
        self.add_event_handler("message", self.message)
        for failure in ("failed_auth", "connection_failed", "ssl_invalid_chain"):
            self.add_event_handler(failure, lambda e, name=failure: tell(name, e))

    async def get_dns_records(self, domain, port=None):
        return [(domain, *address)]  # it would ask the DNS although it has been told where to connect

    async def start(self, _):
        tell("TLS", self.transport.get_extra_info("ssl_object").version())
        await self.get_roster()
        for contact in self.client_roster:
            tell("contact", contact, self.client_roster[contact]["subscription"], self.client_roster[contact]["name"])
        self.send_presence(pstatus="slixmpp is here")

    def presence(self, presence):
        if presence["from"].bare != self.boundjid.bare:
            tell("presence", presence["from"], presence["type"], presence["status"])

    def message(self, message):
        tell("message", message["from"], message["type"], message["body"])
        if message["body"] == "bye":
            self.disconnect()
        elif message["type"] == "chat":
            message.reply("you said: " + message["body"]).send()


jid, host, port, tls, ca = sys.argv[1:]
address = (host, int(port))
client = Client(jid, os.environ["PASSWORD"])
client.ca_certs = ca
client.ssl_context.set_alpn_protocols(["xmpp-client"])
client.connect(address, use_ssl=tls == "direct", force_starttls=tls != "direct")
client.loop.run_until_complete(asyncio.wait_for(client.disconnected, 60))
tell("disconnected")
