package sasl

import (
	"crypto"
	_ "crypto/sha256" // the hashes of TLSServerEndPoint
	_ "crypto/sha512"
	"crypto/tls"
	"crypto/x509"
)

// The channel binding types, as SCRAM and XEP-0440 name them.
const (
	TLSExporter       = "tls-exporter"         // RFC 9266
	TLSUnique         = "tls-unique"           // RFC 5929 section 3; not in TLS 1.3 (RFC 8446 appendix C.5)
	TLSServerEndPoint = "tls-server-end-point" // RFC 5929 section 4
)

// TLSBinding returns the channel binding data of a type for a TLS connection on which leaf is the
// certificate that this side served; false where the connection has no such binding. It serves
// for Attempt.Binding and for finding the types to announce.
func TLSBinding(cs *tls.ConnectionState, leaf *x509.Certificate, typ string) ([]byte, bool) {
	if cs == nil || !cs.HandshakeComplete {
		return nil, false
	}
	switch typ {
	case TLSExporter:
		return exporter(cs)
	case TLSUnique:
		// Without the extended master secret two connections can be made to have the same one
		// (RFC 7627 section 1). Go does not say whether there is one, but there is where it
		// exports.
		_, safe := exporter(cs)
		return cs.TLSUnique, safe && len(cs.TLSUnique) > 0
	case TLSServerEndPoint:
		hash := endPointHash(leaf)
		if hash == 0 {
			return nil, false
		}
		h := hash.New()
		h.Write(leaf.Raw)
		return h.Sum(nil), true
	}
	return nil, false
}

// exporter is RFC 9266. Go refuses where the exporter is not bound to the connection: in TLS 1.2
// without the extended master secret. The context is of zero length, which in TLS 1.2 is not the
// same as none (RFC 9266 section 2, RFC 5705 section 4).
func exporter(cs *tls.ConnectionState) ([]byte, bool) {
	data, err := cs.ExportKeyingMaterial("EXPORTER-Channel-Binding", []byte{}, 32)
	return data, err == nil
}

// endPointHash is the rule of RFC 5929 section 4.1: the hash of the certificate's signature, but
// SHA-256 instead of MD5 and SHA-1. A signature without a single hash has no binding: 0.
func endPointHash(leaf *x509.Certificate) crypto.Hash {
	if leaf == nil {
		return 0
	}
	switch leaf.SignatureAlgorithm {
	case x509.MD5WithRSA, x509.SHA1WithRSA, x509.ECDSAWithSHA1, x509.DSAWithSHA1,
		x509.SHA256WithRSA, x509.SHA256WithRSAPSS, x509.ECDSAWithSHA256, x509.DSAWithSHA256:
		return crypto.SHA256
	case x509.SHA384WithRSA, x509.SHA384WithRSAPSS, x509.ECDSAWithSHA384:
		return crypto.SHA384
	case x509.SHA512WithRSA, x509.SHA512WithRSAPSS, x509.ECDSAWithSHA512:
		return crypto.SHA512
	}
	return 0
}
