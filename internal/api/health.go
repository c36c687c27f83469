package api

import (
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
)

// HealthCheck is how a server without an engine is asked whether it is well. One of the
// fields is set.
type HealthCheck struct {
	URL     string   // answered with a status below 400
	Address string   // HOST:PORT that takes a connection
	Command []string // that ends with 0
}

// ParseHealthCheck reads health.check of an app.yaml, which is also OPENMANAGE_HEALTH.
func ParseHealthCheck(text string) (HealthCheck, error) {
	if strings.HasPrefix(text, "[") {
		var command []string
		if err := json.Unmarshal([]byte(text), &command); err != nil || len(command) == 0 {
			return HealthCheck{}, fmt.Errorf("%q is no JSON array of strings", text)
		}
		return HealthCheck{Command: command}, nil
	}
	u, err := url.Parse(text)
	switch {
	case err != nil:
	case u.Scheme == "http" && u.Host != "":
		return HealthCheck{URL: u.String()}, nil
	case u.Scheme == "tcp" && u.Port() != "":
		return HealthCheck{Address: u.Host}, nil
	}
	return HealthCheck{}, fmt.Errorf("%q: expected http://HOST:PORT/PATH, tcp://HOST:PORT or a command as a JSON array", text)
}
