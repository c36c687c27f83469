package swarmmanager

import (
	"strings"
	"testing"

	"github.com/moby/moby/api/types/mount"
	dockerswarm "github.com/moby/moby/api/types/swarm"
	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"

	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/internal/store"
)

// template is the service of pg-3 as `docker stack deploy` makes it.
func template() dockerswarm.ServiceSpec {
	spec := dockerswarm.ServiceSpec{}
	spec.Name = "pg_3"
	spec.Labels = map[string]string{api.LabelMember: "pg-3", api.LabelVolume: "pg-3", api.LabelSlot: "3", api.LabelApplication: "pg", "com.docker.stack.namespace": "pg"}
	data := mount.Mount{Type: mount.TypeVolume, Source: "pg-3", Target: "/data", VolumeOptions: &mount.VolumeOptions{
		DriverConfig: &mount.Driver{Name: "openmanage", Options: map[string]string{"size": "1GiB", "application": "pg", "member": "pg-3"}},
	}}
	runtime := mount.Mount{Type: mount.TypeVolume, Source: "pg-3.runtime", Target: "/openmanage", VolumeOptions: &mount.VolumeOptions{DriverConfig: &mount.Driver{Name: "openmanage"}}}
	other := mount.Mount{Type: mount.TypeVolume, Source: "shared", Target: "/shared"}
	spec.TaskTemplate = dockerswarm.TaskSpec{
		ForceUpdate: 7,
		ContainerSpec: &dockerswarm.ContainerSpec{
			Hostname: "pg-3", Mounts: []mount.Mount{data, runtime, other},
			Env: []string{"OPENMANAGE_APPLICATION=pg", "OPENMANAGE_MEMBER=pg-3", "OPENMANAGE_VOLUME=pg-3", "TEXT=pg-3"},
		},
		Networks:  []dockerswarm.NetworkAttachmentConfig{{Target: "net", Aliases: []string{"pg-3", "3"}}},
		Placement: &dockerswarm.Placement{Constraints: []string{"node.labels." + api.PinLabel("pg-3") + " != elsewhere", "node.labels." + api.PinLabel("pg-30") + " != elsewhere"}},
	}
	return spec
}

func TestAnotherMembersServiceCarriesItsNameEverywhere(t *testing.T) {
	before := template()
	spec := memberSpec(before, "pg-3", "pg-12", 2<<30)
	assert.Equal(t, spec.Name, "pg_12")
	assert.DeepEqual(t, spec.Labels, map[string]string{api.LabelMember: "pg-12", api.LabelVolume: "pg-12", api.LabelSlot: "12", api.LabelApplication: "pg", "com.docker.stack.namespace": "pg"})
	c := spec.TaskTemplate.ContainerSpec
	assert.Equal(t, c.Hostname, "pg-12")
	assert.DeepEqual(t, c.Env, []string{"OPENMANAGE_APPLICATION=pg", "OPENMANAGE_MEMBER=pg-12", "OPENMANAGE_VOLUME=pg-12", "TEXT=pg-3"})
	assert.Equal(t, c.Mounts[0].Source, "pg-12")
	assert.DeepEqual(t, c.Mounts[0].VolumeOptions.DriverConfig.Options, map[string]string{"size": "2147483648", "application": "pg", "member": "pg-12"})
	assert.Equal(t, c.Mounts[1].Source, "pg-12.runtime")
	assert.Equal(t, c.Mounts[2].Source, "shared")
	assert.DeepEqual(t, spec.TaskTemplate.Networks[0].Aliases, []string{"pg-12", "12"})
	assert.DeepEqual(t, spec.TaskTemplate.Placement.Constraints, []string{"node.labels." + api.PinLabel("pg-12") + " != elsewhere", "node.labels." + api.PinLabel("pg-30") + " != elsewhere"})
	assert.Equal(t, spec.TaskTemplate.ForceUpdate, uint64(0))
	assert.DeepEqual(t, before, template()) // nothing of the original was changed
}

func TestAStandbyThatFollowsCloselyIsTheSource(t *testing.T) {
	p := newPlan(t)
	for id, r := range p.o.reports {
		r.Storage.Reflink = true
		p.o.reports[id] = r
	}
	p.says("pg-2", func(s *api.MemberStatus) { s.LagBytes = 5 })
	p.says("pg-3", func(s *api.MemberStatus) { s.LagBytes = 3 })
	source, ok := sourceOf(p.o, p.app)
	assert.Assert(t, ok)
	assert.Equal(t, source.Name, "pg-3")

	p.says("pg-3", func(s *api.MemberStatus) { s.Healthy = false })
	source, _ = sourceOf(p.o, p.app)
	assert.Equal(t, source.Name, "pg-2")

	r := p.o.reports["n2"]
	r.Storage.Reflink = false
	p.o.reports["n2"] = r
	_, ok = sourceOf(p.o, p.app)
	assert.Assert(t, !ok, "its node would have to copy every byte")
}

func TestStandbysAreRolledBeforeThePrimary(t *testing.T) {
	app := store.Application{Primary: "pg-1", Members: []store.Member{{Name: "pg-1"}, {Name: "pg-2"}, {Name: "pg-3"}}}
	order := func(req store.RollRequest) string {
		var done []string
		for {
			next := nextToRoll(app, req, done)
			if next == "" {
				return strings.Join(done, " ")
			}
			done = append(done, next)
		}
	}
	assert.Equal(t, order(store.RollRequest{}), "pg-3 pg-2 pg-1")
	assert.Equal(t, order(store.RollRequest{Order: "primary-first"}), "pg-1 pg-3 pg-2")
}

func TestASuccessorHasToFollow(t *testing.T) {
	p := newPlan(t)
	p.says("pg-3", func(s *api.MemberStatus) { s.Position = 2000 })
	name, problem := successor(p.o, p.app, "")
	assert.Equal(t, problem, "")
	assert.Equal(t, name, "pg-3")
	name, _ = successor(p.o, p.app, "pg-2")
	assert.Equal(t, name, "pg-2")
	p.says("pg-3", func(s *api.MemberStatus) { s.Named = false })
	name, _ = successor(p.o, p.app, "")
	assert.Equal(t, name, "pg-2", "clients do not find the one that is ahead")
	p.says("pg-3", func(s *api.MemberStatus) { s.Named = true })
	_, problem = successor(p.o, p.app, "pg-9")
	assert.Check(t, is.Contains(problem, "pg has no standby pg-9"))
	p.says("pg-2", func(s *api.MemberStatus) { s.Streaming = false })
	_, problem = successor(p.o, p.app, "pg-2")
	assert.Check(t, is.Contains(problem, "pg-2 cannot become the primary"))
	p.app.Sync = []string{"pg-2"}
	_, problem = successor(p.o, p.app, "")
	assert.Check(t, is.Contains(problem, "no standby of pg is ready"))
}

func TestMembersLeaveOneAtATimeAndThePrimaryHandsOver(t *testing.T) {
	p := newPlan(t)
	leave := func(members ...string) {
		for _, m := range members {
			p.says(m, func(s *api.MemberStatus) { s.Leaving = true })
		}
	}
	left := func() (names []string) {
		for _, m := range p.app.Members {
			if m.Left {
				names = append(names, m.Name)
			}
		}
		return names
	}
	leave("pg-1", "pg-2", "pg-3")
	p.step()
	assert.DeepEqual(t, left(), []string{"pg-2"})
	p.step()
	assert.DeepEqual(t, left(), []string{"pg-2"})
	// pg-2 stops and is back.
	p.says("pg-2", func(s *api.MemberStatus) { s.Leaving, s.Healthy, s.Named = false, false, false })
	p.step()
	assert.Equal(t, len(left()), 0, "pg-2 is not healthy yet")
	p.says("pg-2", func(s *api.MemberStatus) { s.Healthy = true })
	p.step()
	assert.DeepEqual(t, left(), []string{"pg-3"})
	p.says("pg-3", func(s *api.MemberStatus) { s.Leaving, s.Named = false, false })
	p.step()
	assert.Assert(t, p.app.Handover == nil, "clients find neither yet")
	p.says("pg-2", func(s *api.MemberStatus) { s.Named = true })
	p.step()
	assert.Assert(t, p.app.Handover != nil && p.app.Handover.Orderly, "the primary hands over first")
	assert.Equal(t, len(left()), 0)
	p.obey("pg-2", "pg-3", "pg-1")
	p.says("pg-1", func(s *api.MemberStatus) { s.Position = 1000 })
	p.step()
	assert.Assert(t, p.app.Primary != "pg-1")
	p.obey("pg-2", "pg-3")
	for _, m := range []string{"pg-2", "pg-3"} {
		p.says(m, func(s *api.MemberStatus) { s.Healthy = true })
	}
	p.step()
	assert.DeepEqual(t, left(), []string{"pg-1"})
}

func TestAStoppingApplicationKeepsNoOrder(t *testing.T) {
	p := newPlan(t)
	zero := uint64(0)
	for i := range p.o.services["pg"] {
		p.o.services["pg"][i].Spec.Mode.Replicated = &dockerswarm.ReplicatedService{Replicas: &zero}
	}
	for _, m := range []string{"pg-1", "pg-2"} {
		p.says(m, func(s *api.MemberStatus) { s.Leaving = true })
	}
	p.step()
	assert.Assert(t, p.app.Handover == nil)
	for _, m := range p.app.Members[:2] {
		assert.Assert(t, m.Left, m.Name)
	}
}
