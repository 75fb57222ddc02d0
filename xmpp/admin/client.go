package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"strconv"
	"syscall"
)

// ErrNoServer is what Dial answers when nobody listens on the socket.
var ErrNoServer = errors.New("no server is running")

// A Client calls the verbs of a running server.
type Client struct {
	http http.Client
}

// Dial looks whether a server listens on the socket at path: ErrNoServer if none does, another
// error if there may be one that the caller must not reach.
func Dial(path string) (*Client, error) {
	c, err := net.DialTimeout("unix", path, probe)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
			err = ErrNoServer
		}
		return nil, fmt.Errorf("admin socket %s: %w", path, err)
	}
	_ = c.Close()
	var dialer net.Dialer
	return &Client{http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, "unix", path)
		},
	}}}, nil
}

// Close lets go of the connection.
func (c *Client) Close() error {
	c.http.CloseIdleConnections()
	return nil
}

// Call calls a verb. args is marshalled to JSON (nil: no arguments). The result is unmarshalled into
// result (nil: ignored), or copied to it when it is an io.Writer. The server's error comes back with
// its own words.
func (c *Client) Call(ctx context.Context, verb string, args, result any) error {
	body, err := json.Marshal(args)
	if err != nil {
		return fmt.Errorf("%s: %w", verb, err)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://tombolo/"+verb, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("%s: %w", verb, err)
	}
	response, err := c.http.Do(request)
	if err != nil {
		return fmt.Errorf("%s: the server does not answer: %w", verb, err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return serverError(response)
	}
	switch result := result.(type) {
	case nil:
		return nil
	case io.Writer:
		if _, err := io.Copy(result, response.Body); err != nil {
			return fmt.Errorf("%s: %w", verb, err)
		}
		if text := response.Trailer.Get(failed); text != "" {
			if plain, err := strconv.Unquote(text); err == nil {
				text = plain
			}
			return errors.New(text)
		}
		return nil
	default:
		if err := json.NewDecoder(response.Body).Decode(result); err != nil {
			return fmt.Errorf("%s: the server's answer: %w", verb, err)
		}
		return nil
	}
}

func serverError(response *http.Response) error {
	var f failure
	if json.NewDecoder(response.Body).Decode(&f) != nil || f.Error == "" {
		f.Error = "the server answers " + response.Status
	}
	if response.StatusCode == http.StatusNotFound {
		f.Error += "; is it an older version than this command?"
	}
	return errors.New(f.Error)
}
