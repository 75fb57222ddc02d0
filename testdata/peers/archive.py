"""A client on slixmpp that fetches from its archive (XEP-0313) what it has missed, for tests. It tells what it
finds, one line each on standard output, and leaves.

usage: archive.py JID HOST PORT CA-FILE CONTACT; the password is in $PASSWORD.
"""

import asyncio
import json
import os
import sys
from datetime import datetime, timedelta, timezone

import slixmpp


def tell(what, *values):
    print(what, *(json.dumps(str(v)) for v in values), flush=True)


class Client(slixmpp.ClientXMPP):
    def __init__(self, jid, password):
        super().__init__(jid, password)
        self.register_plugin("xep_0313")
        self.register_plugin("xep_0441")
        self.add_event_handler("session_start", self.start)
        self.add_event_handler("message", lambda m: m["body"] and tell("message", m["body"]))
        self.add_event_handler("disconnected", lambda _: gone.set_result(None))
        for failure in ("failed_auth", "connection_failed", "ssl_invalid_chain"):
            self.add_event_handler(failure, lambda e, name=failure: tell(name, e))

    async def get_dns_records(self, domain, port=None):
        return [(domain, *address)]

    async def start(self, _):
        try:
            await self.fetch()
        except Exception as e:
            tell("failed", repr(e))
        self.disconnect()

    async def fetch(self):
        mam, now = self["xep_0313"], datetime.now(timezone.utc)
        info = await self["xep_0030"].get_info(jid=self.boundjid.bare)
        tell("announced", "urn:xmpp:mam:2#extended" in info["disco_info"]["features"])
        ends = await mam.get_archive_metadata()
        await self.pages("forwards", rsm={"max": 7})
        await self.pages("backwards", rsm={"max": 7}, reverse=True)
        await self.pages("with", with_jid=slixmpp.JID(contact))
        await self.pages("since", start=now - timedelta(hours=1), end=now + timedelta(hours=1))
        await self.pages("until", end=now - timedelta(hours=1))
        first = [m["mam_result"]["id"] async for m in mam.iterate(total=1)]
        tell("metadata", ends["mam_metadata"]["start"]["id"] == first[0])
        fields = await mam.get_fields()
        tell("fields", sorted(fields.get_fields()))
        prefs = await self["xep_0441"].get_preferences()
        tell("prefs", prefs[0])
        self.send_presence()
        await self["xep_0030"].get_info(jid=self.boundjid.domain)  # behind what comes with the presence
        tell("done")

    async def pages(self, name, **query):
        found = []
        async for m in self["xep_0313"].iterate(**query):
            forwarded = m["mam_result"]["forwarded"]
            assert forwarded["delay"]["stamp"] and m["mam_result"]["id"]
            found.append(forwarded["stanza"]["body"])
        tell(name, " ".join(found))


jid, host, port, ca, contact = sys.argv[1:]
address = (host, int(port))
client = Client(jid, os.environ["PASSWORD"])
client.ca_certs = ca
gone = client.loop.create_future()
client.connect(address, force_starttls=True)
client.loop.run_until_complete(asyncio.wait_for(gone, 60))
