package xmpp

import (
	_ "embed"
	"encoding"
	"fmt"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"time"

	"tombolo/xmpp/audit"
)

// ConfigSource is the source text of Config, from whose comments the command line makes the
// commented example and the manual's chapter.
//
//go:embed config.go
var ConfigSource string

// Defaults is the configuration of an empty file.
func Defaults() Config {
	var c Config
	SetDefaults(&c)
	return c
}

// SetDefaults sets the fields of a Config, or of one of its tables, to what their default tags say.
func SetDefaults(table any) { setDefaults(reflect.ValueOf(table).Elem()) }

func setDefaults(v reflect.Value) {
	for i := range v.NumField() {
		field, value := v.Type().Field(i), v.Field(i)
		if field.Type.Kind() == reflect.Struct {
			setDefaults(value)
			continue
		}
		text, ok := field.Tag.Lookup("default")
		if !ok {
			continue
		}
		if err := setText(value, text); err != nil {
			panic(fmt.Sprintf("default of %s.%s: %v", v.Type(), field.Name, err)) // a mistake in config.go
		}
	}
}

func setText(v reflect.Value, text string) (err error) {
	if t, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		return t.UnmarshalText([]byte(text))
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(text)
	case reflect.Bool:
		var b bool
		b, err = strconv.ParseBool(text)
		v.SetBool(b)
	case reflect.Int:
		var n int64
		n, err = strconv.ParseInt(text, 10, 0)
		v.SetInt(n)
	case reflect.Slice:
		v.Set(reflect.ValueOf(strings.Split(text, ",")))
	default:
		err = fmt.Errorf("a %s has no default", v.Type())
	}
	return err
}

// Database is the path of the store.
func (c *Config) Database() string { return filepath.Join(c.DataDir, "tombolo.db") }

// TokenKey is the path of the key without which the tokens in the store are worth nothing.
func (c *Config) TokenKey() string { return filepath.Join(c.DataDir, "tokens.key") }

// AdminSocket is the path of the Unix socket that the admin commands talk to.
func (c *Config) AdminSocket() string { return c.inDataDir(c.Listen.Admin) }

// AuditLog is where the audit log is and how long it is kept.
func (c *Config) AuditLog() audit.Options {
	return audit.Options{File: c.inDataDir(c.Audit.File), Key: c.inDataDir(c.Audit.Key),
		RotateSize: int64(c.Audit.RotateSize), Keep: int(c.Audit.Keep)}
}

func (c *Config) inDataDir(name string) string {
	if filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(c.DataDir, name)
}

// archived says whether the accounts of a domain have archives.
func (c *Config) archived(domain string) bool {
	if own := c.archiveOf(domain).Enabled; own != nil {
		return *own
	}
	return c.Archive.Enabled
}

// retention is how long messages of a domain's accounts are archived; 0: for good.
func (c *Config) retention(domain string) time.Duration {
	if own := c.archiveOf(domain).Retention; own != nil {
		return time.Duration(*own)
	}
	return time.Duration(c.Archive.Retention)
}

func (c *Config) archiveOf(domain string) (own DomainArchive) {
	for i := range c.Domain {
		if c.Domain[i].Name == domain {
			own = c.Domain[i].Archive
		}
	}
	return own
}
