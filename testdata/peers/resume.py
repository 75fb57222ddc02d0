"""A client on slixmpp that uses stream management (XEP-0198), for tests: told "lose it", it loses its
connection and comes back a little later. It tells what happens to it, one line each on standard output,
and answers what else it is told, until that is "bye".

usage: resume.py JID HOST PORT CA-FILE; the password is in $PASSWORD.
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
        self.register_plugin("xep_0198")
        self.leaving = False
        self.add_event_handler("session_start", self.start)
        self.add_event_handler("message", self.message)
        self.add_event_handler("disconnected", self.lost)
        self.add_event_handler("sm_enabled", lambda e: tell("enabled", e["resume"]))
        self.add_event_handler("session_resumed", lambda e: tell("resumed", e["h"]))
        for failure in ("failed_auth", "connection_failed", "ssl_invalid_chain", "sm_failed"):
            self.add_event_handler(failure, lambda e, name=failure: tell(name, e))

    async def get_dns_records(self, domain, port=None):
        return [(domain, *address)]

    async def start(self, _):
        tell("started")
        self.send_presence(pstatus="slixmpp is here")

    def message(self, message):
        tell("message", message["body"])
        if message["body"] == "bye":
            self.leaving = True
            self.disconnect()
        elif message["body"] == "lose it":
            self.transport.abort()
        else:
            message.reply("you said: " + message["body"]).send()

    def lost(self, _):
        tell("lost")
        if self.leaving:
            gone.set_result(None)
        else:
            self.loop.call_later(0.5, lambda: self.connect(address, force_starttls=True))


jid, host, port, ca = sys.argv[1:]
address = (host, int(port))
client = Client(jid, os.environ["PASSWORD"])
client.ca_certs = ca
gone = client.loop.create_future()
client.connect(address, force_starttls=True)
client.loop.run_until_complete(asyncio.wait_for(gone, 60))
