package swarmmanager

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/internal/swarmpki"
)

// who may call a route, and who answers it.
type route struct {
	managersOnly bool
	// anyManager: answered by whichever manager is asked, not by the leader.
	anyManager bool
	limit      int64 // of the body in bytes; 0: api.MaxBody
	handle     func(ctx context.Context, caller swarmpki.Peer, r *http.Request, body []byte) (any, error)
}

// routes is the whole API of a manager. What a worker may do is only ever for
// itself: the node is the one of its certificate, never one that a body names.
func (m *Manager) routes() map[string]route {
	return map[string]route{
		"POST /v1/report":         {limit: api.MaxReport, handle: post(m.report)},
		"POST /v1/helper":         {handle: post(m.helperReport)},
		"GET /v1/volumes":         {handle: m.listVolumes},
		"GET /v1/volumes/{name}":  {handle: m.getVolume},
		"POST /v1/volumes/create": {handle: post(m.createVolume)},
		"POST /v1/volumes/remove": {handle: post(m.removeVolume)},
		"POST /v1/volumes/attach": {handle: post(m.attachVolume)},
		"POST /v1/volumes/progress": {handle: post(func(ctx context.Context, c swarmpki.Peer, r api.ProgressRequest) (any, error) {
			return struct{}{}, m.volumes.progress(ctx, c.NodeID, r)
		})},
		"POST /v1/volumes/release": {handle: post(func(ctx context.Context, c swarmpki.Peer, r api.ReleaseRequest) (any, error) {
			return struct{}{}, m.volumes.release(ctx, c.NodeID, r)
		})},
		"POST /v1/promise": {anyManager: true, handle: post(m.promise)},
		"POST /v1/bar":     {anyManager: true, managersOnly: true, handle: post(m.bar)},
		"GET /v1/status":   {managersOnly: true, handle: m.status},
	}
}

// post decodes the body of a request strictly.
func post[T any](handle func(context.Context, swarmpki.Peer, T) (any, error)) func(context.Context, swarmpki.Peer, *http.Request, []byte) (any, error) {
	return func(ctx context.Context, caller swarmpki.Peer, _ *http.Request, body []byte) (any, error) {
		var in T
		if err := json.Unmarshal(body, &in); err != nil {
			return nil, refuse(api.ErrInvalid, "the request's body cannot be read: %v", err)
		}
		return handle(ctx, caller, in)
	}
}

// handler answers the whole API.
func (m *Manager) handler() http.Handler {
	mux := http.NewServeMux()
	for pattern, rt := range m.routes() {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) { m.answer(w, r, rt) })
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		writeError(w, http.StatusNotFound, refuse(api.ErrInvalid, "there is no %s %s; plugin and manager may be of different versions", r.Method, r.URL.Path))
	})
	return mux
}

// serve answers on the manager's port until ctx ends.
func (m *Manager) serve(ctx context.Context) error {
	server := &http.Server{
		Handler: m.handler(), TLSConfig: m.id.ServerConfig(), BaseContext: func(net.Listener) context.Context { return ctx },
		ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 20 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 16 << 10,
		ErrorLog: m.log.Named("http").StandardLogger(&hclog.StandardLoggerOptions{ForceLevel: hclog.Debug}),
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", m.listen)
	if err != nil {
		return fmt.Errorf("listen for nodes on %s: %w; is another program on this port?", m.listen, err)
	}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	m.log.Info("listening", "address", listener.Addr().String(), "version", m.version)
	if err := server.ServeTLS(listener, "", ""); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// answer checks who asks, hands on what is the leader's, and answers the rest.
func (m *Manager) answer(w http.ResponseWriter, r *http.Request, rt route) {
	limit := cmp.Or(rt.limit, api.MaxBody)
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	if err != nil {
		var tooLarge *http.MaxBytesError
		if errors.As(err, &tooLarge) {
			writeError(w, http.StatusRequestEntityTooLarge, refuse(api.ErrInvalid, "the request's body is over %d bytes", limit))
			return
		}
		writeError(w, http.StatusBadRequest, refuse(api.ErrInvalid, "the request's body cannot be read: %v", err))
		return
	}
	who, err := caller(r)
	if err != nil {
		writeError(w, http.StatusForbidden, refuse(api.ErrForbidden, "%v", err))
		return
	}
	if rt.managersOnly && !who.Manager {
		writeError(w, http.StatusForbidden, refuse(api.ErrForbidden, "node %s is a worker; %s is for managers", who.NodeID, r.URL.Path))
		return
	}
	if !rt.anyManager && !m.leadership.acting() {
		m.forward(w, r, who, body)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), 15*time.Second)
	defer cancel()
	out, err := rt.handle(ctx, who, r, body)
	if err != nil {
		m.answerError(w, r, who, err)
		return
	}
	writeJSON(w, http.StatusOK, out)
}

func (m *Manager) answerError(w http.ResponseWriter, r *http.Request, who swarmpki.Peer, err error) {
	var refused *api.Error
	if errors.As(err, &refused) {
		writeError(w, statusOf(refused.Code), refused)
		return
	}
	m.log.Warn("request failed", "path", r.URL.Path, "node", who.NodeID, "error", err)
	writeError(w, http.StatusServiceUnavailable, refuse(api.ErrNotYet, "the leading manager could not do it: %v", err))
}

func statusOf(code string) int {
	switch code {
	case api.ErrNotFound:
		return http.StatusNotFound
	case api.ErrForbidden:
		return http.StatusForbidden
	case api.ErrInvalid:
		return http.StatusBadRequest
	case api.ErrNotLeader, api.ErrNotYet:
		return http.StatusServiceUnavailable
	}
	return http.StatusConflict
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	var body bytes.Buffer
	if err := json.NewEncoder(&body).Encode(v); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(body.Bytes())
}

func writeError(w http.ResponseWriter, status int, e *api.Error) { writeJSON(w, status, e) }

// report renews the leases of the calling node and hands out its orders.
func (m *Manager) report(ctx context.Context, caller swarmpki.Peer, said api.Report) (any, error) {
	defer m.leases.turn(caller.NodeID)()
	answer := api.ReportAnswer{Leader: m.leadership.self, Lease: api.LeaseDuration, Seq: said.Seq}
	known := m.leases.heardOf(caller.NodeID)
	state, late := known.state, !known.state.Newer(said)
	if !late {
		var whole bool
		if state, whole = state.Add(said); !whole {
			return api.ReportAnswer{Leader: m.leadership.self, Seq: said.Seq, Again: true}, nil
		}
	}
	r := state.Report
	renewed, lost, err := m.volumes.renew(ctx, caller.NodeID, r)
	if err != nil {
		return nil, err
	}
	answer.Renewed, answer.Lost = renewed, lost
	view, err := m.volumes.look(ctx)
	if err != nil {
		return nil, err
	}
	answer.Longer = m.volumes.longer(renewed, view.all)
	r.Members = allowed(r.Members, func(s *api.MemberStatus) bool { return speaksFor(caller.NodeID, view.all[s.Volume].Value) })
	nodes, err := m.nodes.get(ctx, 5*time.Second)
	if err != nil {
		return nil, err
	}
	for _, n := range nodes {
		answer.Nodes = append(answer.Nodes, toNode(n))
	}
	now := heard{state: state, report: r, answered: known.answered}
	if late {
		// What it is answered does not count as known: the node has been answered a later
		// report, or this one, before.
		for i := range r.Members {
			answer.Orders = append(answer.Orders, *m.apps.orders(r.Members[i]))
		}
		now.state, now.report = known.state, known.report
	} else {
		answer.Orders, answer.Same, now.answered = m.apps.ordersSince(r, said.Since, known.answered)
	}
	if answer.Purge, err = m.purgeOrders(ctx, r); err != nil {
		return nil, err
	}
	answer.Grow, answer.Snapshot = m.volumeOrders(r, renewed, view.all)
	if len(r.Purged) > 0 {
		// Not waited for: the leases of the node's other volumes depend on the answer.
		go func() {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
			defer cancel()
			m.purged(ctx, r)
		}()
	}
	// The last look: what was prepared is sent only by a manager that still
	// leads, and is remembered before it is sent.
	if !m.leadership.acting() {
		return nil, refuse(api.ErrNotLeader, "this manager no longer leads; ask again")
	}
	var news []string
	for _, volume := range m.leases.hear(caller.NodeID, now) {
		if application := view.all[volume].Value.Application; application != "" {
			news = append(news, application)
		}
	}
	if len(news) > 0 {
		m.apps.news.about(news...)
	}
	needsCopy := len(news) > 0 && slices.ContainsFunc(r.Members, func(s api.MemberStatus) bool { return s.NeedsCopy != "" })
	if needsCopy || !slices.Equal(known.report.Snapshots, r.Snapshots) {
		m.apps.news.asked() // operations begin with the one, and wait for the other
	}
	return answer, nil
}

// allowed returns the elements for which ok holds: the list itself if that is all.
func allowed[T any](list []T, ok func(*T) bool) []T {
	for i := range list {
		if ok(&list[i]) {
			continue
		}
		rest := slices.Clone(list[:i])
		for j := i + 1; j < len(list); j++ {
			if ok(&list[j]) {
				rest = append(rest, list[j])
			}
		}
		return rest
	}
	return list
}

// speaksFor tells whether what node says of the member on a volume counts: only
// who holds the volume, or held it last, knows.
func speaksFor(node string, v api.Volume) bool {
	if v.Owner != nil {
		return v.Owner.Node == node
	}
	return v.LastNode == node
}

func (m *Manager) helperReport(_ context.Context, caller swarmpki.Peer, r api.HelperReport) (any, error) {
	m.leases.hearHelper(caller.NodeID, r)
	return api.HelperAnswer{Pull: m.pulls.orders(caller.NodeID)}, nil
}

func (m *Manager) listVolumes(ctx context.Context, _ swarmpki.Peer, _ *http.Request, _ []byte) (any, error) {
	all, err := m.volumes.all(ctx)
	if err != nil {
		return nil, err
	}
	list := make([]api.Volume, 0, len(all))
	for _, r := range all {
		list = append(list, r.Value)
	}
	return list, nil
}

func (m *Manager) getVolume(ctx context.Context, _ swarmpki.Peer, r *http.Request, _ []byte) (any, error) {
	record, err := m.volumes.get(ctx, r.PathValue("name"))
	return record.Value, err
}

func (m *Manager) createVolume(ctx context.Context, _ swarmpki.Peer, r api.CreateRequest) (any, error) {
	return m.volumes.create(ctx, r)
}

func (m *Manager) removeVolume(ctx context.Context, _ swarmpki.Peer, r api.NameRequest) (any, error) {
	return struct{}{}, m.volumes.retain(ctx, r.Name)
}

func (m *Manager) attachVolume(ctx context.Context, caller swarmpki.Peer, r api.AttachRequest) (any, error) {
	if r.MountID == "" || r.Location == "" {
		return nil, refuse(api.ErrInvalid, "an attach of volume %q names no mount or no location", r.Name)
	}
	if max(len(r.MountID), len(r.Tenure), len(r.Location)) > maxID {
		return nil, refuse(api.ErrInvalid, "an attach of volume %.50q has an ID of more than %d characters", r.Name, maxID)
	}
	return m.volumes.attach(ctx, caller.NodeID, r)
}

// maxID bounds the IDs that a node chooses and a record keeps; Docker's have 64
// characters.
const maxID = 128

// promise answers a node that finds no leader.
func (m *Manager) promise(_ context.Context, caller swarmpki.Peer, r api.Promise) (any, error) {
	if m.leadership.acting() {
		return nil, refuse(api.ErrConflict, "this manager leads; report to it")
	}
	if !m.promises.give(caller.NodeID, r.Lease) {
		return nil, refuse(api.ErrConflict, "the volumes of node %s are being given away", caller.NodeID)
	}
	return struct{}{}, nil
}

func (m *Manager) bar(_ context.Context, _ swarmpki.Peer, r api.BarRequest) (any, error) {
	return m.promises.bar(r.Node, min(r.Bar, barDuration)), nil
}

func (m *Manager) status(ctx context.Context, _ swarmpki.Peer, _ *http.Request, _ []byte) (any, error) {
	nodes, err := m.nodes.get(ctx, 5*time.Second)
	if err != nil {
		return nil, err
	}
	live := api.LiveStatus{Leader: nodes[m.leadership.self].Description.Hostname, Members: []api.LiveMember{}}
	for _, s := range m.leases.statuses() {
		n := toNode(nodes[s.node])
		member := api.LiveMember{MemberStatus: s.MemberStatus, Node: s.node, Hostname: n.Hostname, Addr: n.Addr, Age: s.age}
		live.Members = append(live.Members, member)
	}
	live.Volumes = m.leases.volumes()
	return live, nil
}
