package stacks

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/docker/cli/cli/compose/types"

	"github.com/openmanage/openmanage/internal/api"
)

// What is expected of a stack beyond that Docker takes it. Each rule looks at a loaded
// stack and returns what is wrong with it, a line each.

// minStopGrace is the least time that a service gets to stop in order.
const minStopGrace = 30 * time.Second

// checkServices is what an operator expects of each service, whoever wrote its type.
func (a *App) checkServices(config *types.Config) []string {
	var wrong []string
	for _, s := range config.Services {
		check := func(ok bool, format string, args ...any) {
			if text := subject(s) + ": " + fmt.Sprintf(format, args...); !ok && !slices.Contains(wrong, text) {
				wrong = append(wrong, text)
			}
		}
		check(s.HealthCheck != nil && !s.HealthCheck.Disable && len(s.HealthCheck.Test) > 1, "healthcheck is missing")
		check(s.StopGracePeriod != nil && time.Duration(*s.StopGracePeriod) >= minStopGrace, "stop_grace_period: expected %s or more", minStopGrace)
		d := s.Deploy
		check(d.UpdateConfig != nil && d.UpdateConfig.FailureAction == "rollback", "deploy.update_config.failure_action: expected rollback")
		check(d.RollbackConfig != nil, "deploy.rollback_config is missing")
		check(d.RestartPolicy != nil && d.RestartPolicy.Delay != nil, "deploy.restart_policy.delay is missing: without it what fails is started again at once")
		check(s.Logging != nil && s.Logging.Options["max-size"] != "", "logging.options.max-size is missing: without it logs fill the node's disk")
		if a.Plain() { // an engine's memory is the user's affair
			check(d.Resources.Limits != nil && d.Resources.Limits.MemoryBytes > 0, "deploy.resources.limits.memory is missing; set resources in app.yaml")
		}
		if s.Deploy.Labels[api.LabelMember] != "" {
			check(d.EndpointMode == "dnsrr", "deploy.endpoint_mode: expected dnsrr, as of every member")
			check(len(s.Entrypoint) > 0 && s.Entrypoint[0] == api.AgentBinary, "entrypoint: expected %s, as of every member", api.AgentBinary)
		}
	}
	return wrong
}

// subject is what is said of a service: that of one member is said of all.
func subject(s types.ServiceConfig) string {
	if s.Deploy.Labels[api.LabelSlot] != "" {
		return "members"
	}
	return "service " + s.Name
}

// checkMembers is what the manager and the agent rely on: a service for each member, with
// its labels and its volumes.
func checkMembers(o Options, config *types.Config) []string {
	const remedy = `take [[ template "member" . ]]`
	var wrong []string
	for slot := 1; slot <= o.Members; slot++ {
		name := MemberName(o.Name, slot)
		i := slices.IndexFunc(config.Services, func(s types.ServiceConfig) bool {
			return s.Deploy.Labels[api.LabelApplication] == o.Name && s.Deploy.Labels[api.LabelMember] == name
		})
		if i < 0 {
			return []string{fmt.Sprintf("no service is member %s (labels %s and %s); %s", name, api.LabelApplication, api.LabelMember, remedy)}
		}
		s := config.Services[i]
		volume := s.Deploy.Labels[api.LabelVolume]
		for source, readOnly := range map[string]bool{volume: false, volume + api.RuntimeSuffix: true} {
			mounted := slices.ContainsFunc(s.Volumes, func(v types.ServiceVolumeConfig) bool {
				return v.Source == source && v.ReadOnly == readOnly && config.Volumes[source].Driver == api.PluginName
			})
			if !mounted {
				wrong = append(wrong, fmt.Sprintf("member %s: volume %q with driver %s is not mounted; %s", name, source, api.PluginName, remedy))
			}
		}
	}
	slices.Sort(wrong)
	return wrong
}

// passwordWords are in the names of variables and labels that hold a password.
var passwordWords = []string{"PASSWORD", "PASSWD", "SECRET", "COOKIE", "API_KEY", "ACCESS_KEY", "API_TOKEN", "AUTH_TOKEN", "ACCESS_TOKEN"}

// checkPasswords finds passwords that everybody can read who sees the service.
func checkPasswords(config *types.Config) []string {
	var wrong []string
	bears := func(name, value string) bool {
		upper := strings.ToUpper(name)
		// What is for the agent names secrets, and a _FILE is where one is.
		if value == "" || strings.HasPrefix(upper, "OPENMANAGE") || strings.HasSuffix(upper, "_FILE") {
			return false
		}
		return slices.ContainsFunc(passwordWords, func(word string) bool { return strings.Contains(upper, word) })
	}
	for _, s := range config.Services {
		for _, name := range sortedKeys(s.Environment) {
			if value := s.Environment[name]; value != nil && bears(name, *value) {
				wrong = append(wrong, fmt.Sprintf("%s: variable %s holds a password for all to see; make it a secret, and name its file or use OPENMANAGE_SECRETS", subject(s), name))
			}
		}
		for _, labels := range []map[string]string{s.Labels, s.Deploy.Labels} {
			for _, name := range sortedKeys(labels) {
				if bears(name, labels[name]) {
					wrong = append(wrong, fmt.Sprintf("%s: label %s holds a password for all to see; make it a secret", subject(s), name))
				}
			}
		}
	}
	return wrong
}
