package sasl

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net"
	"testing"
	"time"

	client "mellium.im/sasl"
)

// connection is both ends of a TLS connection and the certificate that the server served.
type connection struct {
	server, client tls.ConnectionState
	leaf           *x509.Certificate
}

func handshake(t *testing.T, version uint16) connection {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		DNSNames:     []string{"example.com"},
		NotAfter:     time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(leaf)

	near, far := net.Pipe()
	deadline := time.Now().Add(10 * time.Second)
	near.SetDeadline(deadline)
	far.SetDeadline(deadline)
	defer near.Close()
	defer far.Close()
	s := tls.Server(near, &tls.Config{
		Certificates:           []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
		MaxVersion:             version,
		SessionTicketsDisabled: true, // nobody reads them from the pipe
	})
	c := tls.Client(far, &tls.Config{ServerName: "example.com", RootCAs: roots})
	failed := make(chan error, 1)
	go func() { failed <- s.Handshake() }()
	if err := c.Handshake(); err != nil {
		t.Fatal(err)
	}
	if err := <-failed; err != nil {
		t.Fatal(err)
	}
	return connection{s.ConnectionState(), c.ConnectionState(), leaf}
}

// Clients that are not ours: the mechanisms of mellium.im/sasl, bound to a real connection.
func TestMelliumClient(t *testing.T) {
	conn := handshake(t, tls.VersionTLS13)
	offered := Mechanisms()
	for _, m := range []client.Mechanism{client.ScramSha1, client.ScramSha256, client.ScramSha1Plus, client.ScramSha256Plus, client.Plain} {
		for password, good := range map[string]bool{"r0m30": true, "mercutio": false} {
			k := &keeper{t: t}
			a := k.attempt(offered...)
			a.Binding = func(typ string) ([]byte, bool) { return TLSBinding(&conn.server, conn.leaf, typ) }
			x := begin(t, m.Name, a)
			c := client.NewClient(m,
				client.Credentials(func() (user, secret, identity []byte) { return []byte("juliet"), []byte(password), nil }),
				client.RemoteMechanisms(offered...),
				client.TLSState(conn.client))
			_, response, err := c.Step(nil)
			if err != nil {
				t.Fatal(err)
			}
			var challenge []byte
			for done := false; !done; {
				if challenge, done, err = x.Step(response); err != nil {
					break
				}
				if len(challenge) > 0 {
					if _, response, err = c.Step(challenge); err != nil {
						t.Fatalf("%s: the client refuses %q: %v", m.Name, challenge, err)
					}
				}
			}
			if good && (err != nil || x.Identity() != "juliet") {
				t.Errorf("%s: %v, identity %q", m.Name, err, x.Identity())
			}
			if !good {
				wantCondition(t, m.Name+" with a wrong password", err, NotAuthorized)
			}
		}
	}
}

// A man in the middle with a certificate of his own and two TLS connections cannot pass on a proof.
func TestManInTheMiddle(t *testing.T) {
	toClient, toServer := handshake(t, tls.VersionTLS13), handshake(t, tls.VersionTLS13)
	for _, typ := range []string{TLSExporter, TLSServerEndPoint} {
		const mechanism = "SCRAM-SHA-512-PLUS"
		k := &keeper{t: t}
		a := k.attempt(mechanism)
		a.Binding = func(typ string) ([]byte, bool) { return TLSBinding(&toServer.server, toServer.leaf, typ) }
		data, ok := TLSBinding(&toClient.client, toClient.leaf, typ)
		if !ok {
			t.Fatal("the client has no binding")
		}
		_, _, err := converse(t, mechanism, a, "p="+typ+",,n=juliet,r=abc", "r0m30", data, nil)
		wantCondition(t, typ, err, NotAuthorized)
	}
}

// A relay takes TLS 1.2 from a client that knows tls-unique only, speaks TLS 1.3 with the server, which
// has no tls-unique, and copies what both say (RFC 5802 section 6: the y must fail where the server can
// bind). The client's proof is good, but it is bound to a connection with somebody else.
func TestRelayBetweenTLSVersions(t *testing.T) {
	const base, plus = "SCRAM-SHA-256", "SCRAM-SHA-256-PLUS"
	toClient, toServer := handshake(t, tls.VersionTLS12), handshake(t, tls.VersionTLS13)
	k := &keeper{t: t}
	attempt := func() *Attempt {
		a := k.attempt(plus, base)
		a.TLSVersion = toServer.server.Version
		a.Binding = func(typ string) ([]byte, bool) { return TLSBinding(&toServer.server, toServer.leaf, typ) }
		return a
	}
	bound, ok := TLSBinding(&toClient.client, toClient.leaf, TLSUnique)
	if !ok {
		t.Fatal("the client has no tls-unique")
	}
	x, _, err := converse(t, plus, attempt(), "p=tls-unique,,n=juliet,r=abc", "r0m30", bound, nil)
	wantCondition(t, "bound to the connection with the relay", err, NotAuthorized)
	again := attempt()
	again.Unbindable = x.Unbindable() // on the same stream
	_, _, err = converse(t, base, again, "y,,n=juliet,r=abc", "r0m30", nil, nil)
	wantCondition(t, "y afterwards", err, NotAuthorized)
}

// Both ends compute the same data, which other connections do not have. Go negotiates the extended
// master secret (RFC 7627) in TLS 1.2.
func TestTLSExporter(t *testing.T) {
	seen := map[string]bool{}
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13, tls.VersionTLS13} {
		conn := handshake(t, version)
		ours, ok := TLSBinding(&conn.server, conn.leaf, TLSExporter)
		theirs, ok2 := TLSBinding(&conn.client, conn.leaf, TLSExporter)
		if !ok || !ok2 || len(ours) != 32 || !bytes.Equal(ours, theirs) || seen[string(ours)] {
			t.Errorf("%s: %x %v, %x %v", tls.VersionName(version), ours, ok, theirs, ok2)
		}
		seen[string(ours)] = true
	}
}

func TestNoBinding(t *testing.T) {
	conn := handshake(t, tls.VersionTLS13)
	for _, typ := range []string{TLSUnique, "", "tls-exporter "} { // RFC 8446 appendix C.5
		if data, ok := TLSBinding(&conn.server, conn.leaf, typ); ok {
			t.Errorf("%q: %x", typ, data)
		}
	}
	for _, typ := range []string{TLSExporter, TLSServerEndPoint} {
		if _, ok := TLSBinding(nil, conn.leaf, typ); ok {
			t.Errorf("%s without TLS", typ)
		}
		if _, ok := TLSBinding(&tls.ConnectionState{}, conn.leaf, typ); ok {
			t.Errorf("%s before the handshake", typ)
		}
	}
	if _, ok := TLSBinding(&conn.server, nil, TLSServerEndPoint); ok {
		t.Error("tls-server-end-point without a certificate")
	}
}

// RFC 5929 section 4.1.
func TestServerEndPointHash(t *testing.T) {
	conn := handshake(t, tls.VersionTLS13)
	raw := []byte("certificate")
	of256, of384, of512 := sha256.Sum256(raw), sha512.Sum384(raw), sha512.Sum512(raw)
	for algorithm, want := range map[x509.SignatureAlgorithm][]byte{
		x509.MD5WithRSA:       of256[:],
		x509.SHA1WithRSA:      of256[:],
		x509.ECDSAWithSHA1:    of256[:],
		x509.SHA256WithRSA:    of256[:],
		x509.SHA256WithRSAPSS: of256[:],
		x509.ECDSAWithSHA256:  of256[:],
		x509.SHA384WithRSA:    of384[:],
		x509.SHA384WithRSAPSS: of384[:],
		x509.ECDSAWithSHA384:  of384[:],
		x509.SHA512WithRSA:    of512[:],
		x509.SHA512WithRSAPSS: of512[:],
		x509.ECDSAWithSHA512:  of512[:],
		// Ed25519 signs without a hash of its own: undefined.
		x509.PureEd25519:               nil,
		x509.UnknownSignatureAlgorithm: nil,
	} {
		got, ok := TLSBinding(&conn.server, &x509.Certificate{Raw: raw, SignatureAlgorithm: algorithm}, TLSServerEndPoint)
		if ok != (want != nil) || !bytes.Equal(got, want) {
			t.Errorf("%v: %x, %v", algorithm, got, ok)
		}
	}

	// The certificate as it is on the wire, of a connection whose ends both have it.
	got, _ := TLSBinding(&conn.server, conn.leaf, TLSServerEndPoint)
	if want := sha256.Sum256(conn.client.PeerCertificates[0].Raw); !bytes.Equal(got, want[:]) {
		t.Errorf("%x, the client sees %x", got, want)
	}
}
