package volumeplugin

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/docker/go-plugins-helpers/volume"
	"github.com/docker/go-units"

	"github.com/openmanage/openmanage/internal/api"
)

// driver answers Docker. Create, Remove and Mount go through the leader; Get, List
// and Path are answered from what is known, after at most askTimeout.
type driver struct{ p *plugin }

const (
	// askTimeout bounds questions to the leader that Docker waits for in passing.
	askTimeout = 3 * time.Second
	// cacheFresh is for how long records are shown without asking again.
	cacheFresh = 2 * time.Second
	// changeTimeout bounds Create and Remove; Docker gives them a minute or two.
	changeTimeout = 45 * time.Second
)

func (d driver) Capabilities() *volume.CapabilitiesResponse {
	return &volume.CapabilitiesResponse{Capabilities: volume.Capability{Scope: "global"}}
}

// Create declares the volume. Nothing is made on this node.
func (d driver) Create(r *volume.CreateRequest) error {
	if _, ok := api.DataVolumeOf(r.Name); ok {
		_, err := d.p.openRuntime(r.Name)
		return err
	}
	if err := api.ValidateVolumeName(r.Name); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), changeTimeout)
	defer cancel()
	if err := d.p.waitReady(ctx); err != nil {
		return err
	}
	var rec api.Volume
	if err := d.p.callPatiently(ctx, "/v1/volumes/create", api.CreateRequest{Name: r.Name, Options: r.Options}, &rec); err != nil {
		return fmt.Errorf("create volume %s: %w", r.Name, err)
	}
	if rec.Name == r.Name {
		d.p.cache.put(rec)
	}
	return nil
}

// Remove marks the volume retained. Its data stays.
func (d driver) Remove(r *volume.RemoveRequest) error {
	if _, ok := api.DataVolumeOf(r.Name); ok {
		return d.p.removeRuntime(r.Name)
	}
	ctx, cancel := context.WithTimeout(context.Background(), changeTimeout)
	defer cancel()
	if err := d.p.waitReady(ctx); err != nil {
		return err
	}
	d.p.flushRelease(ctx, r.Name)
	err := d.p.callPatiently(ctx, "/v1/volumes/remove", api.NameRequest{Name: r.Name}, nil)
	var refused *api.Error
	if errors.As(err, &refused) && refused.Code == api.ErrNotFound {
		err = nil
	}
	if err != nil {
		return fmt.Errorf("remove volume %s: %w", r.Name, err)
	}
	d.p.cache.drop(r.Name)
	return nil
}

// Get finds a volume. That it cannot be asked for is another error than that it
// does not exist; Docker then tries Create, which fails as well, and nothing is
// ever made locally.
func (d driver) Get(r *volume.GetRequest) (*volume.GetResponse, error) {
	if _, ok := api.DataVolumeOf(r.Name); ok {
		dir := d.p.target(r.Name)
		if _, err := os.Stat(dir); err != nil {
			return nil, fmt.Errorf("volume %s is not on this node", r.Name)
		}
		return &volume.GetResponse{Volume: &volume.Volume{Name: r.Name, Mountpoint: dir}}, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), askTimeout)
	defer cancel()
	rec, known := d.p.cache.get(r.Name)
	if !known || !d.p.cache.fresh(r.Name, cacheFresh) {
		var now api.Volume
		err := d.p.leader.Call(ctx, http.MethodGet, "/v1/volumes/"+r.Name, nil, &now)
		var refused *api.Error
		switch {
		case err == nil:
			d.p.cache.put(now)
			rec, known = now, true
		case errors.As(err, &refused) && refused.Code == api.ErrNotFound:
			d.p.cache.drop(r.Name)
			known = false
		case !known:
			return nil, fmt.Errorf("volume %s cannot be looked up: %w", r.Name, err)
		}
	}
	if !known || rec.Retained || rec.Purging {
		return nil, fmt.Errorf("there is no volume %s", r.Name)
	}
	return &volume.GetResponse{Volume: d.describe(rec)}, nil
}

// List shows what the leader has, or had when it last answered.
func (d driver) List() (*volume.ListResponse, error) {
	ctx, cancel := context.WithTimeout(context.Background(), askTimeout)
	defer cancel()
	if !d.p.cache.allFresh(cacheFresh) {
		var all []api.Volume
		if err := d.p.leader.Call(ctx, http.MethodGet, "/v1/volumes", nil, &all); err == nil {
			d.p.cache.replace(all)
		} else {
			d.p.log.Debug("volumes listed from memory", "error", err)
		}
	}
	res := &volume.ListResponse{Volumes: []*volume.Volume{}}
	for _, rec := range d.p.cache.all() {
		if !rec.Retained && !rec.Purging {
			res.Volumes = append(res.Volumes, d.describe(rec))
		}
	}
	d.p.mu.Lock()
	for name := range d.p.runtimes {
		res.Volumes = append(res.Volumes, &volume.Volume{Name: name, Mountpoint: filepath.Join(d.p.Propagated, name)})
	}
	d.p.mu.Unlock()
	slices.SortFunc(res.Volumes, func(a, b *volume.Volume) int { return strings.Compare(a.Name, b.Name) })
	return res, nil
}

// Path returns where the volume is mounted, "" if it is not mounted here.
func (d driver) Path(r *volume.PathRequest) (*volume.PathResponse, error) {
	return &volume.PathResponse{Mountpoint: d.mountpoint(r.Name)}, nil
}

// Mount makes the volume appear. The same ID may come more than once.
func (d driver) Mount(r *volume.MountRequest) (*volume.MountResponse, error) {
	if _, ok := api.DataVolumeOf(r.Name); ok {
		rt, err := d.p.openRuntime(r.Name)
		if err != nil {
			return nil, err
		}
		return &volume.MountResponse{Mountpoint: rt.dir}, nil
	}
	if err := api.ValidateVolumeName(r.Name); err != nil {
		return nil, err
	}
	if err := d.p.waitReady(context.Background()); err != nil {
		return nil, err
	}
	path, err := d.p.volume(r.Name).mount(r.ID)
	if err != nil {
		return nil, err
	}
	return &volume.MountResponse{Mountpoint: path}, nil
}

// Unmount takes a Mount back.
func (d driver) Unmount(r *volume.UnmountRequest) error {
	if _, ok := api.DataVolumeOf(r.Name); ok {
		return nil // the socket stays until no container mentions the volume
	}
	if err := d.p.waitReady(context.Background()); err != nil {
		return err
	}
	return d.p.volume(r.Name).unmount(r.ID)
}

func (d driver) mountpoint(name string) string {
	if _, ok := api.DataVolumeOf(name); ok {
		return d.p.target(name)
	}
	d.p.mu.Lock()
	v := d.p.volumes[name]
	d.p.mu.Unlock()
	if v == nil {
		return ""
	}
	if h := v.holding(); h == nil || !h.isMounted() {
		return ""
	}
	return v.path()
}

func (d driver) describe(rec api.Volume) *volume.Volume {
	status := map[string]any{"state": rec.State(), "size": units.BytesSize(float64(rec.Size)), "fs": rec.Filesystem}
	if rec.Owner != nil {
		status["node"], status["epoch"] = rec.Owner.Hostname, rec.Epoch
	}
	return &volume.Volume{Name: rec.Name, Mountpoint: d.mountpoint(rec.Name), CreatedAt: rec.Created.UTC().Format(time.RFC3339), Status: status}
}

// callPatiently asks the leader until it answers something else than "not yet" or
// ctx ends.
func (p *plugin) callPatiently(ctx context.Context, path string, in, out any) error {
	for {
		err := p.leader.Call(ctx, http.MethodPost, path, in, out)
		var refused *api.Error
		if err == nil || errors.As(err, &refused) && refused.Code != api.ErrNotYet && refused.Code != api.ErrNotLeader {
			return err
		}
		if !sleep(ctx, retryEvery) {
			return err
		}
	}
}

// recordCache remembers the leader's records, for when it does not answer. The
// zero value is empty and ready.
type recordCache struct {
	mu      sync.Mutex
	records map[string]cachedRecord
	listed  time.Time
}

type cachedRecord struct {
	api.Volume
	at time.Time
}

func (c *recordCache) get(name string) (api.Volume, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r, ok := c.records[name]
	return r.Volume, ok
}

func (c *recordCache) fresh(name string, age time.Duration) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Since(c.records[name].at) < age
}

func (c *recordCache) allFresh(age time.Duration) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Since(c.listed) < age
}

func (c *recordCache) put(rec api.Volume) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.records == nil {
		c.records = map[string]cachedRecord{}
	}
	c.records[rec.Name] = cachedRecord{rec, time.Now()}
}

func (c *recordCache) drop(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.records, name)
	c.listed = time.Time{}
}

func (c *recordCache) replace(all []api.Volume) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.listed = time.Now()
	c.records = make(map[string]cachedRecord, len(all))
	for _, rec := range all {
		c.records[rec.Name] = cachedRecord{rec, c.listed}
	}
}

func (c *recordCache) all() []api.Volume {
	c.mu.Lock()
	defer c.mu.Unlock()
	list := make([]api.Volume, 0, len(c.records))
	for _, r := range c.records {
		list = append(list, r.Volume)
	}
	return list
}
