package xmpp_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// A line is one line of a play that is not a comment, with the indented block below it.
type line struct {
	number int
	text   string
	block  []string
}

// lines splits the text of a play.
func lines(text string) ([]line, error) {
	var list []line
	for i, s := range strings.Split(text, "\n") {
		trimmed := strings.TrimSpace(s)
		switch {
		case trimmed == "" || strings.HasPrefix(trimmed, "#"):
		case s[0] != ' ' && s[0] != '\t':
			list = append(list, line{number: i + 1, text: trimmed})
		case len(list) == 0:
			return nil, fmt.Errorf("line %d: an indented block below nothing", i+1)
		default:
			last := &list[len(list)-1]
			last.block = append(last.block, trimmed)
		}
	}
	return list, nil
}

// argument is what follows phrase on the line, or else the block as one text. How a block is broken
// into lines is layout: line ends are dropped, or kept as one space inside of a tag or of text.
func (l line) argument(rest string) string {
	var b strings.Builder
	b.WriteString(strings.TrimSpace(rest))
	for _, s := range l.block {
		if before := b.String(); before != "" && !strings.HasSuffix(before, ">") && !strings.HasPrefix(s, "<") {
			b.WriteByte(' ')
		}
		b.WriteString(s)
	}
	return b.String()
}

// repeats finds {x*1000}, a text repeated.
var repeats = regexp.MustCompile(`\{([^{}*]+)\*(\d+)\}`)

// expand puts in what stands for something else: {x*1000}, and {name} for variables that have a
// value. An argument in Go's quotes stands for bytes that a line cannot show.
func expand(argument string, vars map[string]string) (string, error) {
	if strings.HasPrefix(argument, `"`) {
		unquoted, err := strconv.Unquote(argument)
		if err != nil {
			return "", fmt.Errorf("%s: %w", argument, err)
		}
		argument = unquoted
	}
	argument = repeats.ReplaceAllStringFunc(argument, func(s string) string {
		m := repeats.FindStringSubmatch(s)
		n, _ := strconv.Atoi(m[2])
		return strings.Repeat(m[1], n)
	})
	for name, value := range vars {
		argument = strings.ReplaceAll(argument, "{"+name+"}", escaper.Replace(value))
	}
	argument = proofs.ReplaceAllStringFunc(argument, func(s string) string {
		m := proofs.FindStringSubmatch(s)
		return hashedToken(m[1], m[2])
	})
	return argument, nil
}

// proofs finds {HT user token}, what a user says who has a token.
var proofs = regexp.MustCompile(`\{HT ([^{} ]+) ([^{} ]+)\}`)

// hashedToken is the initial response of HT-SHA-256-NONE (draft-schmaus-kitten-sasl-ht section 3).
func hashedToken(user, token string) string {
	h := hmac.New(sha256.New, []byte(token))
	h.Write([]byte("Initiator"))
	return base64.StdEncoding.EncodeToString(append([]byte(user+"\x00"), h.Sum(nil)...))
}

var escaper = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", "'", "&apos;", `"`, "&quot;")
