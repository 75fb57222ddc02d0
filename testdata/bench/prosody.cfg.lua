-- Prosody as it is measured: epoll, generational garbage collection, Nagle's algorithm off, no rate
-- limits. run.sh fills in what begins with a dollar sign.
run_as_root = true
data_path = "$DIR/data"
pidfile = "$DIR/pid"
log = { warn = "$DIR/log" }
network_backend = "epoll"
network_settings = { nagle = false }
gc = { mode = "generational" }

interfaces = { "$HOST" }
c2s_ports = { $CLIENT }
c2s_direct_tls_ports = { }
s2s_ports = { $SERVER }
s2s_direct_tls_ports = { }

-- No DNS here: where the partner is stands in a file.
unbound = { resolvconf = false, hoststxt = "$DIR/hosts", options = { ["do-not-query-localhost:"] = "no" } }

modules_enabled = { "roster", "saslauth", "tls", "disco", "ping", "version", "offline", "carbons", "smacks", "register_ibr",
	"$ARCHIVE" ~= "false" and "mam" or nil }

-- The archive is in files, as it comes, or in SQLite, of which nothing is set: a transaction for each message of
-- each archive, synced (synchronous=FULL with a rollback journal). All else stays in files.
storage = { archive = "$ARCHIVE" == "sqlite" and "sql" or nil }
sql = { driver = "SQLite3", database = "$DIR/archive.sqlite" }
archive_expires_after = "never"
default_archive_policy = true
allow_registration = true
authentication = "internal_hashed"
c2s_require_encryption = true
s2s_require_encryption = true
s2s_secure_auth = true

certificates = "$CERTS"
ssl = { cafile = "$CERTS/ca.crt" }

VirtualHost "$DOMAIN"
