package xmpp_test

import (
	"bytes"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"fmt"
	"go/ast"
	"go/parser"
	"go/printer"
	"go/token"
	"hash"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"tombolo/xmpp/ns"
)

var hashes = map[string]func() hash.Hash{"SCRAM-SHA-1": sha1.New, "SCRAM-SHA-256": sha256.New, "SCRAM-SHA-512": sha512.New}

// A profile is how the messages of SASL are wrapped: SASL (RFC 6120 section 6) or SASL2 (XEP-0388).
type profile struct{ ns, start string }

var (
	sasl1 = profile{ns.SASL, "<auth xmlns='" + ns.SASL + "' mechanism='%s'>%s</auth>"}
	sasl2 = profile{ns.SASL2, "<authenticate xmlns='" + ns.SASL2 + "' mechanism='%s'><initial-response>%s</initial-response></authenticate>"}
)

// begin sends the initial response, and returns the server's answer.
func (w *wire) begin(p profile, mechanism, response string) string {
	w.t.Helper()
	w.sendf(p.start, mechanism, base64.StdEncoding.EncodeToString([]byte(response)))
	return w.verdict()
}

// verdict is the next challenge, failure or success.
func (w *wire) verdict() string {
	w.t.Helper()
	got := w.expect(">")
	for _, name := range []string{"challenge", "failure", "success", "continue"} {
		if strings.HasPrefix(got, "<"+name) && !strings.HasSuffix(got, "/>") {
			got += w.expect("</" + name + ">")
		}
	}
	return got
}

// scram goes through SCRAM without channel binding as the client (RFC 5802), and returns the server's
// last word. gs2 is the header, for example "n,a=juliet,".
func (w *wire) scram(p profile, mechanism, gs2, user, password string) string {
	w.t.Helper()
	h := hashes[mechanism]
	encode := base64.StdEncoding.EncodeToString
	bare := "n=" + user + ",r=fyko"
	got := w.begin(p, mechanism, gs2+bare)
	if !strings.HasPrefix(got, "<challenge") {
		return got
	}
	_, text, _ := strings.Cut(strings.TrimSuffix(got, "</challenge>"), ">")
	first, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		w.t.Fatal(err)
	}
	var nonce, salt string
	iterations := 0
	for _, part := range strings.Split(string(first), ",") {
		switch name, value, _ := strings.Cut(part, "="); name {
		case "r":
			nonce = value
		case "s":
			raw, err := base64.StdEncoding.DecodeString(value)
			if err != nil {
				w.t.Fatal(err)
			}
			salt = string(raw)
		case "i":
			if iterations, err = strconv.Atoi(value); err != nil {
				w.t.Fatal(err)
			}
		}
	}
	salted, err := pbkdf2.Key(h, password, []byte(salt), iterations, h().Size())
	if err != nil {
		w.t.Fatal(err)
	}
	mac := func(key []byte, text string) []byte {
		m := hmac.New(h, key)
		m.Write([]byte(text))
		return m.Sum(nil)
	}
	key := mac(salted, "Client Key")
	stored := h()
	stored.Write(key)
	final := "c=" + encode([]byte(gs2)) + ",r=" + nonce
	proof := mac(stored.Sum(nil), bare+","+string(first)+","+final)
	for i := range proof {
		proof[i] ^= key[i]
	}
	w.sendf("<response xmlns='%s'>%s</response>", p.ns, encode([]byte(final+",p="+encode(proof))))
	return w.verdict()
}

// Nobody acts for somebody else, however he writes that, with whatever mechanism; and he is told so
// only if his own proof was good.
func TestAuthzidForSomebodyElse(t *testing.T) {
	g := newTarget(t, "limits.exempt = ['127.0.0.0/8']\nlimits.login_attempts = 100", "mallory", "juliet")
	others := []string{"juliet", "juliet@a.test", "JULIET", "a.test", "juliet@b.test", "mallory@b.test", "mallory@a.test/x", "nobody", "nobody@a.test"}
	type attempt func(w *wire, authzid, user, password string) string
	attempts := make(map[string]attempt)
	for name, p := range map[string]profile{"SASL": sasl1, "SASL2": sasl2} {
		attempts[name+" PLAIN"] = func(w *wire, authzid, user, password string) string {
			return w.begin(p, "PLAIN", authzid+"\x00"+user+"\x00"+password)
		}
		for mechanism := range hashes {
			attempts[name+" "+mechanism] = func(w *wire, authzid, user, password string) string {
				gs2 := "n,,"
				if authzid != "" {
					gs2 = "n,a=" + authzid + ","
				}
				return w.scram(p, mechanism, gs2, user, password)
			}
		}
	}
	for mechanism, attempt := range attempts {
		t.Run(mechanism, func(t *testing.T) {
			w := g.underTLS(t)
			for _, other := range others {
				if got := attempt(w, other, "mallory", "secret of mallory"); !strings.Contains(got, "<invalid-authzid") {
					t.Errorf("as %q: %s", other, got)
				}
				if got := attempt(w, other, "mallory", "secret of juliet"); !strings.Contains(got, "<not-authorized") {
					t.Errorf("as %q with the other's password: %s", other, got)
				}
				if got := attempt(w, "mallory", other, "secret of mallory"); strings.Contains(got, "<success") {
					t.Errorf("%q as mallory: %s", other, got)
				}
			}
			if got := attempt(w, "", "mallory", "secret of mallory"); !strings.HasPrefix(got, "<success") {
				t.Errorf("as oneself: %s", got)
			}
			// What was proved is the identity, whatever was asked for before.
			if !strings.HasPrefix(mechanism, "SASL2") {
				w.header()
			}
			w.expect(endOfFeatures)
			w.bind("x")
			if !bytes.Contains(w.seen, []byte("<jid>mallory@a.test/x</jid>")) {
				t.Errorf("bound: %s", w.seen)
			}
		})
	}
}

// Non-SASL authentication (XEP-0078), which is what SASL replaced, does not exist.
func TestIQAuth(t *testing.T) {
	g := newTarget(t, "limits.exempt = ['127.0.0.0/8']", "mallory", "juliet")
	ask := func(kind, inside string) string {
		return fmt.Sprintf("<iq type='%s' id='a' to='a.test'><query xmlns='jabber:iq:auth'>%s</query></iq>", kind, inside)
	}
	for name, text := range map[string]string{
		"the fields":          ask("get", "<username>mallory</username>"),
		"a password":          ask("set", "<username>mallory</username><password>secret of mallory</password><resource>x</resource>"),
		"a digest":            ask("set", "<username>mallory</username><digest>48fc78be9ec8f86d8ce1c39c320c97c21d62334d</digest><resource>x</resource>"),
		"somebody's resource": ask("set", "<username>juliet</username><password>secret of juliet</password><resource>x</resource>"),
	} {
		for _, way := range []int{1, 3, 5} {
			w := ways[way].open(t, g)
			w.send(text)
			if got := w.rest(); !strings.Contains(got, "<not-authorized") || strings.Contains(got, "type='result'") {
				t.Errorf("%s, %s: %q", ways[way].name, name, got)
			}
		}
		w := g.bound(t, "mallory")
		w.send(text)
		if got := w.expect("</iq>"); !strings.Contains(got, "<service-unavailable ") {
			t.Errorf("after login, %s: %q", name, got)
		}
	}
	w := g.underTLS(t)
	if bytes.Contains(w.seen, []byte("iq-auth")) {
		t.Error("it is offered")
	}
}

// secrets are parts of the names of what must not be compared by a comparison that stops at the first
// difference.
var secrets = []string{"secret", "password", "storedkey", "serverkey", "clientkey", "proof", "signature", "mac", "token", "digest", "salted"}

// leaks finds comparisons of secrets that take longer the more is right.
func leaks(fset *token.FileSet, f *ast.File) []string {
	var found []string
	text := func(n ast.Node) string {
		var b bytes.Buffer
		_ = printer.Fprint(&b, fset, n)
		return b.String()
	}
	secret := func(e ast.Expr) bool {
		switch e := e.(type) {
		case *ast.BasicLit:
			return false
		case *ast.CallExpr:
			if name, ok := e.Fun.(*ast.Ident); ok && name.Name != "string" {
				return false // len(key) == 32
			}
		}
		s := strings.ToLower(text(e))
		return slices.ContainsFunc(secrets, func(word string) bool {
			i := strings.LastIndexAny(s, ".(") + 1
			return strings.Contains(s[i:], word)
		})
	}
	harmless := func(e ast.Expr) bool { // the absence of a secret is none
		lit, isLit := e.(*ast.BasicLit)
		name, isName := e.(*ast.Ident)
		return isLit && (lit.Value == `""` || lit.Kind == token.INT) || isName && name.Name == "nil"
	}
	ast.Inspect(f, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.BinaryExpr:
			if (n.Op == token.EQL || n.Op == token.NEQ) && (secret(n.X) || secret(n.Y)) && !harmless(n.X) && !harmless(n.Y) {
				found = append(found, text(n))
			}
		case *ast.CallExpr:
			fun, ok := n.Fun.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			pkg, ok := fun.X.(*ast.Ident)
			if ok && slices.Contains([]string{"bytes", "slices", "strings", "reflect", "cmp"}, pkg.Name) &&
				slices.Contains([]string{"Equal", "EqualFold", "Compare", "HasPrefix", "DeepEqual", "Contains"}, fun.Sel.Name) &&
				slices.ContainsFunc(n.Args, secret) {
				found = append(found, text(n))
			}
		case *ast.SwitchStmt:
			if n.Tag != nil && secret(n.Tag) {
				found = append(found, "switch "+text(n.Tag))
			}
		}
		return true
	})
	return found
}

func TestSecretsAreComparedInConstantTime(t *testing.T) {
	// What only looks like it.
	allowed := []string{
		"o.security.proof == byDialback", "s.proof == byDialback", // how, not what
		"switch leaf.SignatureAlgorithm",
	}
	for file := range sources(t) {
		if !slices.Contains([]string{"xmpp/sasl", "xmpp/auth", "xmpp/audit", "xmpp/stream", "xmpp/c2s", "xmpp/xep", "federation"}, path.Dir(file)) {
			continue
		}
		fset := token.NewFileSet()
		f, err := parser.ParseFile(fset, filepath.Join("..", file), nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, leak := range leaks(fset, f) {
			if !slices.Contains(allowed, leak) {
				t.Errorf("%s: %s: compare secrets with crypto/subtle or hmac.Equal", file, leak)
			}
		}
	}
	// The lint sees what it is for.
	const examples = `package p
var _ = password == given
var _ = string(c.StoredKey) != string(stored)
var _ = bytes.Equal(proof, want)
var _ = strings.EqualFold(token, x)
func f() { switch secret { case x: } }
`
	fset := token.NewFileSet()
	f, err := parser.ParseFile(fset, "x.go", examples, 0)
	if err != nil {
		t.Fatal(err)
	}
	if got := leaks(fset, f); len(got) != 5 {
		t.Errorf("the lint finds %q, want five", got)
	}
}
