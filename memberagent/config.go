package memberagent

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/openmanage/openmanage/internal/api"
)

// The contract between a stack and the agent.
//
// Entrypoint: ["/openmanage/agent"], no command (the image's own is not used). For
// the engine plain: ["/openmanage/agent", "--"], and the command is what the image
// runs by itself, its own entrypoint included.
// Health check, if any: ["CMD", "/openmanage/agent", "health"] (see health.go
// for the intervals). User: root, the image's default; the server runs as the
// image's own user. For plain: the image's own, which then owns the volume (its
// option owner). Mounts: the data volume at EnvData, read-write; the runtime
// volume at /openmanage, read-only. Environment:
const (
	// EnvApplication, EnvMember, EnvVolume name the application ("pg"), this
	// member, which is also its hostname ("pg-1"), and its data volume. Required.
	EnvApplication = "OPENMANAGE_APPLICATION"
	EnvMember      = "OPENMANAGE_MEMBER"
	EnvVolume      = "OPENMANAGE_VOLUME"
	// EnvEngine chooses the engine: "postgresql", "plain". Required.
	EnvEngine = "OPENMANAGE_ENGINE"
	// EnvData is where the data volume is mounted, an absolute path. For the
	// image postgres:17 /var/lib/postgresql/data, for 18 /var/lib/postgresql.
	// The engine keeps its data in a folder below. Required.
	EnvData = "OPENMANAGE_DATA"
	// EnvTask and EnvImage are for people: {{.Task.ID}} and the image's name.
	// Optional.
	EnvTask  = "OPENMANAGE_TASK"
	EnvImage = "OPENMANAGE_IMAGE"
	// EnvParameters are the engine's settings as a JSON object of strings, such
	// as {"max_connections":"200"}. Settings only: passwords are secrets.
	// Those of the leader's orders win. Optional.
	EnvParameters = "OPENMANAGE_PARAMETERS"
	// EnvStopGrace is how long the server may take to stop in order, a Go
	// duration; it should be 5 s or more below the stack's stop_grace_period.
	// Optional, DefaultStopGrace if absent.
	EnvStopGrace = "OPENMANAGE_STOP_GRACE"
	// EnvLogLevel of the agent's own log: debug, info (default), warn, error.
	EnvLogLevel = "OPENMANAGE_LOG_LEVEL"
)

// SecretsDir is where Docker mounts the stack's secrets. Their targets are up to
// the engine; postgresql reads superuser-password and replication-password.
const SecretsDir = "/run/secrets"

// DefaultStopGrace leaves 10 s of the 60 s that Swarm waits for an old task
// before its successor starts.
const DefaultStopGrace = 50 * time.Second

// Config is what an agent needs to know. FromEnv fills it in a container.
type Config struct {
	Application string
	Member      string
	Volume      string
	Engine      string // name of the engine
	Data        string // mount point of the data volume
	Task        string
	Image       string
	Command     []string // what the engine is to run, if it does not know
	Parameters  map[string]string
	StopGrace   time.Duration

	// Engines are those that this binary knows.
	Engines []Engine
	// Getenv reads what else an engine takes from its image's conventions.
	Getenv func(string) string
	// Socket is the plugin's; SecretsDir holds the secrets.
	Socket     string
	SecretsDir string
	Log        hclog.Logger
}

// FromEnv reads the contract from the environment. The error names the variable
// that is wrong and what it should be. Engines remain to be set.
func FromEnv(getenv func(string) string) (Config, error) {
	c := Config{
		Application: getenv(EnvApplication),
		Member:      getenv(EnvMember),
		Volume:      getenv(EnvVolume),
		Engine:      getenv(EnvEngine),
		Data:        getenv(EnvData),
		Task:        getenv(EnvTask),
		Image:       getenv(EnvImage),
		StopGrace:   DefaultStopGrace,
		Getenv:      getenv,
		Socket:      api.AgentSocket,
		SecretsDir:  SecretsDir,
	}
	var errs []error
	for _, required := range []struct{ name, value string }{
		{EnvApplication, c.Application},
		{EnvMember, c.Member},
		{EnvVolume, c.Volume},
		{EnvEngine, c.Engine},
		{EnvData, c.Data},
	} {
		if required.value == "" {
			errs = append(errs, fmt.Errorf("%s is not set: the stack must set it for each member (docker openmanage generate shows how)", required.name))
		}
	}
	if c.Data != "" && (!filepath.IsAbs(c.Data) || filepath.Clean(c.Data) == "/") {
		errs = append(errs, fmt.Errorf("%s=%q must be the absolute path of the data volume's mount", EnvData, c.Data))
	}
	if s := getenv(EnvParameters); s != "" {
		if err := json.Unmarshal([]byte(s), &c.Parameters); err != nil {
			errs = append(errs, fmt.Errorf(`%s must be a JSON object of strings, such as {"max_connections":"200"}: %w`, EnvParameters, err))
		}
	}
	if s := getenv(EnvStopGrace); s != "" {
		d, err := time.ParseDuration(s)
		if err != nil || d <= 0 {
			errs = append(errs, fmt.Errorf("%s=%q must be a positive duration, such as 50s", EnvStopGrace, s))
		}
		c.StopGrace = d
	}
	level := hclog.Info
	if s := getenv(EnvLogLevel); s != "" {
		if level = hclog.LevelFromString(s); level == hclog.NoLevel {
			errs = append(errs, fmt.Errorf("%s=%q must be debug, info, warn or error", EnvLogLevel, s))
		}
	}
	c.Log = hclog.New(&hclog.LoggerOptions{Name: "agent", Level: level})
	return c, errors.Join(errs...)
}

// engine returns the engine that the configuration asks for.
func (c Config) engine() (Engine, error) {
	var known []string
	for _, e := range c.Engines {
		if e.Name() == c.Engine {
			return e, nil
		}
		known = append(known, e.Name())
	}
	return nil, fmt.Errorf("%s=%q is not an engine of this agent, which knows %q; is the volume plugin older than the stack?", EnvEngine, c.Engine, known)
}
