package stacks

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"
	"gotest.tools/v3/assert"

	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/internal/inventory"
)

// metricsOfOthers are those that dashboards name and OpenManage does not serve.
var metricsOfOthers = []string{
	// Prometheus's own, of each target and of itself.
	"up", "scrape_duration_seconds", "prometheus_tsdb_head_samples_appended_total",
	// The node exporter's, of the collectors that the stack of Prometheus turns on.
	"node_cpu_seconds_total", "node_load1", "node_disk_read_bytes_total", "node_disk_written_bytes_total",
	"node_memory_MemAvailable_bytes", "node_memory_MemTotal_bytes", "node_memory_SwapFree_bytes", "node_memory_SwapTotal_bytes",
}

// served are the metrics of `openmanage inventory`, and the labels of each, where there is all that it can know.
func served(t *testing.T) map[string][]string {
	t.Helper()
	status := api.MemberStatus{Role: api.RoleStandby, State: api.StateRunning, Healthy: true, Timeline: 1}
	server := &inventory.Server{Log: hclog.NewNullLogger(), State: func(context.Context) (inventory.State, error) {
		return inventory.State{Nodes: []inventory.Node{{Hostname: "node1"}}, Members: []inventory.Member{{
			Name: "pg-1", Role: api.RoleStandby, Live: &status, Usage: api.Usage{Used: 1, Free: 1},
		}}}, nil
	}}
	page := httptest.NewRecorder()
	server.Handler().ServeHTTP(page, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	metrics := map[string][]string{}
	for line := range strings.Lines(page.Body.String()) {
		if m := regexp.MustCompile(`^(\w+){(.*)} `).FindStringSubmatch(line); m != nil {
			for _, label := range regexp.MustCompile(`(\w+)="`).FindAllStringSubmatch(m[2], -1) {
				if !slices.Contains(metrics[m[1]], label[1]) {
					metrics[m[1]] = append(metrics[m[1]], label[1])
				}
			}
		}
	}
	assert.Assert(t, len(metrics) > 0, page.Body.String())
	return metrics
}

// queries are all of a document, at whatever depth: of panels and of variables.
func queries(doc any) (all []string) {
	switch v := doc.(type) {
	case map[string]any:
		for key, value := range v {
			if text, ok := value.(string); ok && (key == "expr" || key == "query") {
				all = append(all, text)
			}
			all = append(all, queries(value)...)
		}
	case []any:
		for _, value := range v {
			all = append(all, queries(value)...)
		}
	}
	return all
}

var (
	quoted  = regexp.MustCompile(`"[^"]*"`)
	grouped = regexp.MustCompile(`\b(?:by|without) \(([^)]*)\)`)
	bracket = regexp.MustCompile(`{[^}]*}|\[[^]]*\]`)
	matcher = regexp.MustCompile(`(\w+)\s*(?:=|!=|=~|!~)`) // in brackets, without what is quoted
	// word is a name that is not a function's.
	word = regexp.MustCompile(`\b([a-zA-Z_:][\w:]*)\b(\s*\(?)`)
)

// metricsIn are the names of metrics in a query, and the labels by which it chooses and groups them.
func metricsIn(query string) (metrics, labels []string) {
	if inside, ok := strings.CutPrefix(query, "label_values("); ok { // of Grafana, for a variable
		query, _, _ = strings.Cut(quoted.ReplaceAllString(inside, ""), ",")
	}
	query = quoted.ReplaceAllString(query, "")
	for _, m := range grouped.FindAllStringSubmatch(query, -1) {
		labels = append(labels, strings.Split(strings.ReplaceAll(m[1], " ", ""), ",")...)
	}
	for _, m := range bracket.FindAllString(query, -1) {
		for _, label := range matcher.FindAllStringSubmatch(m, -1) {
			labels = append(labels, label[1])
		}
	}
	query = bracket.ReplaceAllString(grouped.ReplaceAllString(query, ""), "")
	for _, m := range word.FindAllStringSubmatch(query, -1) {
		if !strings.HasSuffix(m[2], "(") && !slices.Contains([]string{"sum", "min", "max", "avg", "count"}, m[1]) {
			metrics = append(metrics, m[1])
		}
	}
	return metrics, labels
}

// Every metric that a dashboard names is one that there is, with the labels by which it is chosen and grouped.
func TestDashboardsNameWhatThereIs(t *testing.T) {
	metrics := served(t)
	shown := map[string]bool{}
	catalog, err := Builtin()
	assert.NilError(t, err)
	grafana, err := catalog.Find("grafana")
	assert.NilError(t, err)
	for name, value := range generated(t, grafana)[0].Environment {
		board, ok := strings.CutSuffix(strings.TrimPrefix(name, "OPENMANAGE_FILE_dashboards/"), ".json")
		if !ok {
			continue
		}
		t.Run(board, func(t *testing.T) {
			var doc any
			assert.NilError(t, json.Unmarshal([]byte(*value), &doc))
			all := queries(doc)
			assert.Assert(t, len(all) >= 4, "queries: %q", all)
			for _, query := range all {
				named, labels := metricsIn(query)
				assert.Assert(t, len(named) > 0, "no metric in %s", query)
				for _, metric := range named {
					shown[metric] = true
					if slices.Contains(metricsOfOthers, metric) {
						continue
					}
					has, ok := metrics[metric]
					assert.Check(t, ok, "%s: there is no metric %s; there are %v", query, metric, sortedKeys(metrics))
					for _, label := range labels {
						assert.Check(t, slices.Contains(has, label), "%s: %s has no label %s; it has %v", query, metric, label, has)
					}
				}
			}
		})
	}
	for _, metric := range metricsOfOthers {
		assert.Check(t, shown[metric], "%s is in no dashboard", metric)
	}
}
