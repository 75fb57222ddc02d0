-- Prosody as a partner in tests. Everything it touches is below its own directory.
run_as_root = true -- CI is root, and the directory is not readable by others
data_path = "{{.Dir}}/data"
log = { { levels = { min = "debug" }, to = "console" } }

interfaces = { "{{.Address}}" }
c2s_ports = { {{.ClientPort}} }
s2s_ports = { {{.ServerPort}} }
s2s_direct_tls_ports = { {{.ServerTLSPort}} }

-- Its libunbound asks our DNS server, not the system's. It refuses servers on loopback unless told
-- otherwise.
unbound = {
	resolvconf = false, forward = "{{.NameServer}}@{{.NamePort}}",
	options = { ["do-not-query-localhost:"] = "no" },
}

modules_enabled = { "roster", "saslauth", "tls", "dialback", "disco", "ping", "version", "offline", "smacks" }
smacks_s2s_resend = true -- what another server has not acknowledged, in place of telling its sender that it is lost
authentication = "internal_plain"
c2s_require_encryption = true
s2s_require_encryption = true
s2s_secure_auth = false -- dialback will do where the certificate does not

certificates = "{{.Certificates}}" -- .crt and .key by domain
ssl = { cafile = "{{.CA}}" }

VirtualHost "{{.Domain}}"
