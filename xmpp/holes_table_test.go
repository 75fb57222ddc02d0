package xmpp_test

import (
	"bytes"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the generated parts of the documentation")

// A hole is one that others had, or that a specification warns of, and the tests that fail if we have
// it. A test is "package function", or the name of a play.
type hole struct {
	row    string
	source string // "" where nobody in particular had it
	tests  []string
}

// holes are the corpus of known holes, under the headings of the table that is made of them in
// docs/security.md.
var holes = []struct {
	heading string
	rows    []hole
}{
	{"XML", []hole{
		{"Entity expansion and document types, by every way in which XML comes in",
			"CVE-2011-1753 (ejabberd), CVE-2011-1754 (jabberd14), CVE-2011-1755 (jabberd2), CVE-2011-2205 (Prosody); RFC 6120 section 11.1",
			[]string{"xmpp TestEntitiesAndDocumentTypes", "federation TestEntitiesFromAServerThatWeConnectTo"}},
		{"A second way to read XML, with fewer checks", "CVE-2022-0217 (Prosody)", []string{"xmpp TestThereIsOneWayToReadXML"}},
		{"Few bytes before login that cost much memory", "CVE-2021-32918 (Prosody)", []string{"xmpp TestMemoryBeforeLogin", "xmpp/element TestMemoryIsBounded", "xmpp/stream TestTooMuchBeforeLogin", "xmpp/stream TestTLSCountsBeforeLogin"}},
		{"Input that takes time quadratic in its length", "", []string{"xmpp/element TestHostileInputIsLinear"}},
		{"Connections that come and go before login", "RFC 6120 section 13.12", []string{"xmpp TestConnectAndClose"}},
		{"Slow-loris: a login that never ends, by silence, drops or a flood of white space", "RFC 6120 section 13.12", []string{"xmpp TestSlowLoris", "xmpp/stream TestLoginTakesTooLong"}},
		{"A million nested elements, before and after login, to who is there and who is not", "", []string{"xmpp TestAMillionNestedElements", "xmpp/element TestLimits"}},
		{"Invalid and overlong UTF-8, surrogates, NUL, what is no character of XML", "CVE-2022-25235 (expat); RFC 6120 section 11.6", []string{"xmpp TestBytesThatAreNoText", "xmpp/element TestParseRefuses"}},
		{"A stream in a stream", "", []string{"xmpp TestNestedStream"}},
		{"Prefixes and namespaces that mean something else to the recipient", "CVE-2022-25236 (expat), CVE-2022-22784 (Zoom)", []string{"xmpp TestPrefixGames", "xmpp/element FuzzParse", "xmpp/element TestAgainstExpat"}},
		{"Ill-formed input of which a part reaches somebody", "CVE-2022-22784 (Zoom)", []string{"xmpp TestIllFormedInputReachesNobody", "xmpp/element TestParseInPieces"}},
		{"A recipient whose parser reads another tree than ours", "", []string{"xmpp/element FuzzParse", "xmpp/element TestElementsAgainstEncodingXML", "xmpp/element TestAgainstExpat"}},
	}},
	{"TLS", []hole{
		{"Bytes in clear behind STARTTLS that are taken for what came under TLS", "CVE-2011-0411; RFC 6120 section 5.3.1",
			[]string{"xmpp TestBytesBehindSTARTTLS", "xmpp/stream TestDataBehindStartTLSIsRefused", "federation TestTLSIsNotNegotiable", "rfc6120-5-starttls.txt"}},
		{"An order of features that reaches login without TLS", "CVE-2014-8760 (ejabberd)", []string{"xmpp TestNoOrderOfFeaturesReachesLoginWithoutTLS", "xmpp/stream TestNothingBeforeItsTurn", "federation TestOrderOfNegotiation"}},
		{"An outgoing stream that goes on in clear because nobody offered TLS", "RFC 6120 section 5.3.1", []string{"federation TestTLSIsNotNegotiable", "xmpp FuzzServer"}},
		{"A certificate for the target of an SRV record", "RFC 6120 section 13.7.2", []string{"federation TestCertificateMatrix"}},
		{"A to or from that changes after TLS or login", "CVE-2018-10847 (Prosody)", []string{"xmpp TestChangedHeaderOfAClient", "federation TestHeaderChangesAfterTLS"}},
		{"A resumed TLS session whose certificate is not judged again", "", []string{"xmpp TestTLSSessionsAreNotResumed", "federation TestOutgoingTLSIsNotResumed"}},
		{"Requests for new keys without end, whose answers are not read", "RFC 8446 section 4.6.3", []string{"xmpp/transport TestUnreadAnswersOfTLS", "xmpp/stream TestTLSCountsBeforeLogin", "xmpp/stream TestTLSCountsForThePace"}},
		{"Old versions and weak ciphers", "RFC 8996, RFC 7465", []string{"xmpp TestOldTLS"}},
		{"A valid chain and name with the extended key usage of servers, clients, any or none: EXTERNAL", "XEP-0178", []string{"federation TestCertificateMatrix", "federation TestExternalBothWays"}},
		{"Certificates that are expired, not yet valid, untrusted, or for another host", "RFC 6120 section 13.7.2", []string{"federation TestCertificateMatrix", "federation TestPartnerTerms"}},
		{"A name in the CN only", "RFC 6125 section 6.4.4", []string{"federation TestCertificateMatrix"}},
		{"A wildcard for more than one label, or for a part of one", "RFC 6125 section 6.4.3", []string{"federation TestCertificateMatrix"}},
		{"id-on-xmppAddr, SRV-ID, IDN, wildcard of one label: as DNS names", "RFC 6120 section 13.7.1.4, RFC 4985", []string{"federation TestCertificateMatrix"}},
		{"Names that a constrained CA must not certify", "RFC 5280 section 4.2.1.10", []string{"federation TestCertificateMatrix"}},
		{"A pinned partner with another key", "", []string{"federation TestPartnerTerms", "federation TestNoCertificate"}},
		{"Somebody in the middle who takes away the channel binding", "XEP-0440, XEP-0474, XEP-0515", []string{"xmpp/sasl TestManInTheMiddle", "xmpp/sasl TestRelayBetweenTLSVersions", "xmpp/sasl TestSCRAMUnbindable", "xmpp/sasl TestDowngradeProtection", "xep-0474-0515-downgrade.txt"}},
	}},
	{"Other servers", []hole{
		{"A db:result or db:verify that nobody asked for", "CVE-2012-3525 (jabberd2); XEP-0220 section 3.1", []string{"federation TestInvalidKey", "federation TestBounces", "federation TestOrderOfNegotiation"}},
		{"A replayed dialback key or answer", "XEP-0220", []string{"federation TestReplayedKey", "federation TestInvalidKey", "federation TestAuthoritative"}},
		{"A dialback key of a weak secret or an ambiguous concatenation", "XEP-0185 section 2", []string{"federation TestKeyIsNotAmbiguous", "federation TestKey_XEP0185_3", "federation TestSecretIsKept"}},
		{"A stanza for a pair of domains that is not authorised on its stream", "RFC 6120 section 8.1.2.2", []string{"federation TestStanzaAddresses_RFC6120_8_1_2_2", "federation TestValidKey", "xmpp FuzzServer"}},
		{"EXTERNAL as one domain, stanzas as another", "XEP-0178", []string{"xmpp TestExternalAsOneStanzasAsAnother", "federation TestExternalIdentity_XEP0178_3"}},
		{"A certificate that was not verified, and a stream that was trusted for it", "CVE-2021-32919 (Prosody)", []string{"federation TestDialbackRefusals_XEP0220_2_5", "federation TestCertificateMatrix"}},
		{"A remote user named like a local admin", "CVE-2020-8086 (Prosody modules)", []string{"xmpp TestRemoteUserNamedLikeALocalOne"}},
		{"An address whose own server normalises it differently", "RFC 7622", []string{"xmpp TestAddressesInAnotherNormalForm", "xmpp/jid TestAgreesWithReference"}},
		{"Verifications that strangers ask for and leave behind, and those that keep the server from reaching others", "XEP-0220 section 2.1.2; RFC 6120 section 13.12",
			[]string{"federation TestVerificationEndsWithItsStream", "federation TestStrangersDoNotUseUpTheDials", "federation TestVerificationThatFindsNoTurn", "federation TestVerificationsForExemptAddresses"}},
		{"Forged keys that are tried one after the other on one stream", "XEP-0220 section 2.2.1", []string{"federation TestInvalidKeyBesideOneThatIsBeingVerified", "federation TestInvalidKey"}},
		{"A certificate chain that takes long to verify, and is asked about for many domains", "", []string{"federation TestChainIsVerifiedOnce", "federation TestCertificateOfManyNames"}},
		{"As many domains on one stream as a wildcard certificate proves", "", []string{"federation TestPairsOfAWildcardAreBounded", "federation TestTooManyPairs"}},
		{"One owner's many domains that do not answer, and keep the server from reaching others", "", []string{"federation TestOneOwnersDomainsDoNotUseUpTheDials"}},
	}},
	{"Accounts", []hole{
		{"An authzid for somebody else: PLAIN, SCRAM, EXTERNAL, SASL2", "RFC 6120 section 6.3.8", []string{"xmpp TestAuthzidForSomebodyElse", "xmpp/sasl TestPlain", "xmpp/sasl TestExternal", "federation TestExternalIdentity_XEP0178_3"}},
		{"A mechanism that was not offered", "CVE-2017-10807 (jabberd2)", []string{"xmpp/sasl TestServerRefuses", "rfc6120-6-sasl.txt", "rfc6120-6-plain-off.txt"}},
		{"SCRAM with another nonce, another channel binding, y where -PLUS was offered", "RFC 5802 sections 5.1 and 6", []string{"xmpp/sasl TestSCRAMNonce", "xmpp/sasl TestSCRAMFinalRefused", "xmpp/sasl TestSCRAMChannelBinding"}},
		{"Users that can be told from those who do not exist", "RFC 6120 section 13.11", []string{"xmpp/auth TestUnknownUserCostsTheSame", "xmpp/auth TestUnknownClientCostsTheSame", "xmpp/auth TestImaginedSalts", "xmpp/auth TestUnknownUsersHaveOldIterationsToo", "xmpp/sasl TestUnknownUserLooksKnown"}},
		{"Comparisons of secrets that take longer the more is right", "CVE-2021-32921 (Prosody)", []string{"xmpp TestSecretsAreComparedInConstantTime"}},
		{"Non-SASL authentication", "XEP-0078", []string{"xmpp TestIQAuth"}},
		{"Changing the password of somebody else", "XEP-0077 section 3.3", []string{"xmpp/xep TestPasswordChangeSection3Point3", "xmpp/xep TestRegisterFromElsewhere"}},
		{"Disabled, deleted, another password: sessions go on", "", []string{"xmpp/c2s TestUserDisableAndEnable", "xmpp/c2s TestUserDelete", "xmpp/c2s TestUserPasswd", "xmpp/xep TestCancellationSection3Point2"}},
		{"The same, between login and binding", "", []string{"xmpp TestAccountChangesBetweenLoginAndBinding", "xmpp/c2s TestNothingIsBoundAfterRevocation", "xmpp/auth TestPasswordChangesDuringExchange"}},
		{"The same, with a token", "XEP-0484", []string{"xmpp/auth TestRevocationReachesUnfinishedLogins", "xmpp/auth TestTokenInvalidation", "xmpp/auth TestRevokeClient", "xep-0494-sessions.txt"}},
		{"A token for another mechanism or channel binding, an old one, one from a stolen database", "XEP-0484", []string{"xmpp/auth TestTokenIsBound", "xmpp/auth TestTokenRotation", "xmpp/auth TestTokenExpiry", "xmpp/auth TestSealedTokens", "xmpp/sasl TestTokenBindings"}},
		{"A stranger who guesses without end, or locks a user out", "RFC 6120 section 6.4.5", []string{"xmpp/c2s TestThrottleDelaysTheGuesser", "xmpp/c2s TestThrottleParallelGuesses", "xmpp/c2s TestThrottleOfAWholeAddress", "xmpp/c2s TestThrottleTooLittleTime", "xmpp/c2s TestGuessesBeyondTheDeadline", "xmpp/c2s TestThrottleLocksNobodyOut", "xmpp/c2s TestTokensAreNotThrottled", "xmpp/c2s TestThrottleMemory", "xmpp/stream TestPauseSaysWhetherItWasServed", "xmpp/stream TestBeginningIsAnAttempt_RFC6120_6_4_5", "rfc6120-6.4.5-tries.txt"}},
	}},
	{"Stanzas", []hole{
		{"A roster push by somebody else", "CVE-2015-8688 (Gajim), CVE-2014-0364 (Smack); RFC 6121 section 2.1.6", []string{"xmpp TestClaimsToBeTheServer"}},
		{"A carbon by somebody else", "CVE-2017-5589 to CVE-2017-5606 (several clients)", []string{"xmpp TestClaimsToBeTheServer", "xmpp/stanza TestStripClaims", "federation TestClaimsAreStripped", "xep-0280-carbons.txt"}},
		{"A stanza-id or delay by us from anyone else, also doubled", "XEP-0359 section 6", []string{"xmpp TestStanzaIDAndDelayByUs", "xmpp/stanza TestStripClaims", "federation TestClaimsAreStripped"}},
		{"A reply that has the id of a request but not the peer, or not the type", "CVE-2014-0364 (Smack)", []string{"xmpp TestRepliesNobodyAskedFor", "xmpp FuzzServer"}},
		{"A request that nobody answers, or two", "RFC 6120 section 8.2.3", []string{"xmpp FuzzServer"}},
		{"Memory for requests that are never answered", "RFC 6120 section 13.12", []string{"xmpp/session TestUnansweredRequestsAreSmall", "xmpp/session TestLongIDsCountAsSeveral"}},
		{"A session that outlives its stream, and what is lost in it", "", []string{"xmpp TestSessionEndsWithItsStream", "xmpp TestUnwrittenIsSentOn"}},
		{"An acknowledgement of more than was sent", "XEP-0198 section 6", []string{"xmpp/stream TestAcknowledge", "xmpp/stream TestCountAfterARestart"}},
		{"A storm from one sender", "RFC 6120 section 13.12", []string{"xmpp TestStorms", "xmpp/stream TestAFastSenderIsReadSlowly", "xmpp/stream TestAClosedStreamKeepsItsPace", "xmpp/stream TestAStreamClosedForAnErrorIsNotRead"}},
		{"A header that makes every stanza long, by its language or its namespaces", "", []string{"xmpp/stream TestLanguageOfTheHeader", "xmpp/stream TestWhatAStanzaBecomesIsPaidFor", "xmpp/element TestHeaderNamespaceIsShort"}},
		{"A peer that never reads", "", []string{"xmpp TestPeerThatNeverReads", "xmpp/stream TestAPeerThatDoesNotReadIsCutOff", "federation TestQueueIsBounded"}},
		{"A stanza from nobody, or in the name of somebody else, after whatever steps", "", []string{"xmpp FuzzServer"}},
		{"A panic, a goroutine or memory left by whatever steps", "", []string{"xmpp FuzzServer", "xmpp/stream TestAPanicEndsOneStream"}},
	}},
}

// TestKnownHoles holds the table in the documentation, and that every test in it is there.
func TestKnownHoles(t *testing.T) {
	there, ours := testsOfTheModule(t)
	listed := make(map[string]bool)
	var b strings.Builder
	for _, group := range holes {
		fmt.Fprintf(&b, "\n| %s | known from | test |\n|---|---|---|\n", group.heading)
		for _, h := range group.rows {
			if len(h.tests) == 0 {
				t.Errorf("no test for %q", h.row)
			}
			var names []string
			for _, name := range h.tests {
				listed[name] = true
				if !slices.Contains(there, name) {
					t.Errorf("%q: there is no test %q", h.row, name)
				}
				names = append(names, "`"+name+"`")
			}
			fmt.Fprintf(&b, "| %s | %s | %s |\n", h.row, h.source, strings.Join(names, ", "))
		}
	}
	// A test of a hole that is not in the table is one that nobody knows of.
	for _, name := range ours {
		if !listed[name] && name != "xmpp TestKnownHoles" {
			t.Errorf("%s is in no row", name)
		}
	}

	const file = "../docs/security.md"
	const begin, end = "<!-- known holes: made from the tests, do not edit -->\n", "<!-- end of known holes -->\n"
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok1 := strings.Cut(string(text), begin)
	_, after, ok2 := strings.Cut(rest, end)
	if !ok1 || !ok2 {
		t.Fatalf("%s has no %q and %q", file, begin, end)
	}
	want := []byte(before + begin + b.String() + "\n" + end + after)
	if *update {
		if err := os.WriteFile(file, want, 0o644); err != nil {
			t.Fatal(err)
		}
	} else if !bytes.Equal(text, want) {
		t.Errorf("%s is not what the tests say; run: go test ./xmpp -run TestKnownHoles -update", file)
	}
}

// testsOfTheModule are all tests, fuzz targets and plays; and those in files of tests of holes.
func testsOfTheModule(t *testing.T) (all, ofHoles []string) {
	t.Helper()
	err := filepath.WalkDir("..", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(name, "_test.go") {
			return err
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		dir, err := filepath.Rel("..", filepath.Dir(name))
		if err != nil {
			return err
		}
		for _, decl := range f.Decls {
			fn, ok := decl.(*ast.FuncDecl)
			if !ok || fn.Recv != nil || !strings.HasPrefix(fn.Name.Name, "Test") && !strings.HasPrefix(fn.Name.Name, "Fuzz") {
				continue
			}
			test := filepath.ToSlash(dir) + " " + fn.Name.Name
			all = append(all, test)
			if strings.HasPrefix(filepath.Base(name), "holes_") {
				ofHoles = append(ofHoles, test)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	plays, err := filepath.Glob("../testdata/script/*.txt")
	if err != nil {
		t.Fatal(err)
	}
	for _, play := range plays {
		all = append(all, filepath.Base(play))
	}
	return all, ofHoles
}
