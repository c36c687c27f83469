package zabbix

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/openmanage/openmanage/internal/inventory"
)

// How OpenManage's own things in Zabbix are called. What has no tag tagKind is not touched.
const (
	hostGroup      = "Docker Swarm"
	tagKind        = "openmanage" // node or member
	tagApplication = "application"
	kindNode       = "node"
	kindMember     = "member"

	linuxTemplate  = "Linux by Zabbix agent active" // comes with Zabbix
	memberTemplate = "OpenManage member"
	templateGroup  = "Templates/OpenManage"
)

// Keys of the items of a member.
const (
	keyHealthy = "openmanage.healthy"
	keyRole    = "openmanage.role"
	keyState   = "openmanage.state"
	keyDisk    = "openmanage.disk.percent"
)

// Numbers that Zabbix's documentation gives to things.
const (
	itemTrapper   = 2
	valueFloat    = 0
	valueUnsigned = 3
	valueText     = 4
	priorityHigh  = 4
	statusEnabled = 0
	tagEquals     = 1
	evalOr        = 2
)

type tag struct {
	Tag   string `json:"tag"`
	Value string `json:"value"`
}

// ref names a group or a template.
type ref struct {
	Group    string `json:"groupid,omitempty"`
	Template string `json:"templateid,omitempty"`
}

// wanted is a host that there shall be.
type wanted struct {
	name, kind, application, template string
}

// host is one that there is.
type host struct {
	ID        string `json:"hostid"`
	Name      string `json:"host"`
	Status    string `json:"status"`
	Tags      []tag  `json:"tags"`
	Groups    []ref  `json:"hostgroups"`
	Templates []ref  `json:"parentTemplates"`
}

// kind is whose it is; "": a user's.
func (h host) kind() string {
	for _, t := range h.Tags {
		if t.Tag == tagKind && (t.Value == kindNode || t.Value == kindMember) {
			return t.Value
		}
	}
	return ""
}

// conflict is what keeps one host from being as it shall be, and what only a user can settle.
type conflict struct{ error }

// onHost makes of what Zabbix refuses to do with a host a conflict.
func onHost(format, name string, err error) error {
	if refused(err) {
		return conflict{fmt.Errorf(format, name, err)}
	}
	return fmt.Errorf(format, name, err)
}

// reconcile makes Zabbix have a host for each node and each member, and returns the names of
// the members' hosts. It does what it can: the error is about the rest.
func (p *provisioner) reconcile(ctx context.Context, state inventory.State) (members map[string]bool, err error) {
	group, err := p.ensureNamed(ctx, "hostgroup", "groupids", hostGroup)
	if err != nil {
		return nil, err
	}
	linux, err := p.template(ctx, linuxTemplate)
	if err != nil {
		return nil, err
	}
	mine, err := p.ensureMemberTemplate(ctx)
	if err != nil {
		return nil, err
	}
	var errs []error
	if linux == "" {
		errs = append(errs, conflict{fmt.Errorf("there is no template %q, which hosts for nodes need; import it from Zabbix's own templates", linuxTemplate)})
	}
	list, err := p.hosts(ctx, map[string]any{"evaltype": evalOr, "tags": []map[string]any{
		{"tag": tagKind, "value": kindNode, "operator": tagEquals}, {"tag": tagKind, "value": kindMember, "operator": tagEquals},
	}})
	if err != nil {
		return nil, err
	}
	hosts := map[string]host{}
	var gone []host
	for _, h := range list {
		if _, twice := hosts[h.Name]; twice {
			gone = append(gone, h)
			continue
		}
		hosts[h.Name] = h
		if !has(state, h) {
			gone = append(gone, h)
		}
	}
	var all []wanted
	for _, name := range hostnames(state) {
		if linux != "" {
			all = append(all, wanted{name, kindNode, p.Application, linux})
		}
	}
	for _, m := range state.Members {
		all = append(all, wanted{m.Name, kindMember, m.Application, mine})
	}
	members = map[string]bool{}
	for _, w := range all {
		if err := p.ensureHost(ctx, w, group, hosts); err != nil {
			errs = append(errs, err)
		} else if w.kind == kindMember {
			members[w.name] = true
		}
	}
	return members, errors.Join(append(errs, p.removeHosts(ctx, gone)...)...)
}

// ensureHost makes one host, or gives back to it what it lacks. What a user has added stays.
func (p *provisioner) ensureHost(ctx context.Context, w wanted, group string, hosts map[string]host) error {
	is, ok := hosts[w.name]
	if !ok {
		_, err := p.api.create(ctx, "host", "hostids", map[string]any{
			"host": w.name, "status": statusEnabled,
			"groups": []ref{{Group: group}}, "templates": []ref{{Template: w.template}},
			"tags": []tag{{tagKind, w.kind}, {tagApplication, w.application}},
		})
		if err == nil {
			p.made[w.name] = time.Now()
			p.Log.Info("a host was added", "host", w.name, "kind", w.kind, "application", w.application)
			return nil
		}
		if !refused(err) {
			return err
		}
		// Somebody has it: another provisioner, or a user.
		found, findErr := p.hosts(ctx, map[string]any{"filter": map[string]any{"host": []string{w.name}}})
		if findErr != nil {
			return findErr
		}
		if len(found) == 0 {
			return onHost("host %s: %w", w.name, err)
		}
		is = found[0]
	}
	switch is.kind() {
	case w.kind:
	case "":
		return conflict{fmt.Errorf("there is a host %q that is not OpenManage's, so the %s %s is not monitored; rename that host, or give it the tag %s: %s to have it taken over", w.name, w.kind, w.name, tagKind, w.kind)}
	default:
		return conflict{fmt.Errorf("a node and a member are both called %s, and Zabbix has one host of a name: the %s is not monitored", w.name, w.kind)}
	}
	change := lacks(is, w, group)
	if change == nil {
		return nil
	}
	change["hostid"] = is.ID
	if err := p.api.call(ctx, "host.update", change, nil); err != nil {
		return onHost("host %s: %w", w.name, err)
	}
	p.Log.Info("a host was put right", "host", w.name)
	return nil
}

// lacks is the change that gives a host what it lacks; nil: nothing.
func lacks(is host, w wanted, group string) map[string]any {
	change := map[string]any{}
	if is.Status != fmt.Sprint(statusEnabled) {
		change["status"] = statusEnabled
	}
	// What is given replaces all that there was.
	if g := (ref{Group: group}); !slices.Contains(is.Groups, g) {
		change["groups"] = append(slices.Clone(is.Groups), g)
	}
	if t := (ref{Template: w.template}); !slices.Contains(is.Templates, t) {
		change["templates"] = append(slices.Clone(is.Templates), t)
	}
	if !slices.Contains(is.Tags, tag{tagApplication, w.application}) {
		tags := slices.DeleteFunc(slices.Clone(is.Tags), func(t tag) bool { return t.Tag == tagApplication })
		change["tags"] = append(tags, tag{tagApplication, w.application})
	}
	if len(change) == 0 {
		return nil
	}
	return change
}

// hostnames are those of the nodes. Two have the same when a machine has joined anew.
func hostnames(state inventory.State) []string {
	var names []string
	for _, n := range state.Nodes {
		if n.Hostname != "" && !slices.Contains(names, n.Hostname) {
			names = append(names, n.Hostname)
		}
	}
	return names
}

// has tells whether a host's node or member is there, or may be: nothing is deleted for a record that
// cannot be read.
func has(state inventory.State, h host) bool {
	if h.kind() == kindNode {
		return slices.Contains(hostnames(state), h.Name)
	}
	return state.Incomplete != "" || slices.ContainsFunc(state.Members, func(m inventory.Member) bool { return m.Name == h.Name })
}

// removeHosts deletes those of nodes and members that are gone, and those that two provisioners
// have made in the same moment.
func (p *provisioner) removeHosts(ctx context.Context, gone []host) (errs []error) {
	for _, h := range gone {
		err := p.api.call(ctx, "host.delete", []string{h.ID}, nil)
		if refused(err) { // another provisioner may have deleted it
			if left, findErr := p.api.findWith(ctx, "host", "hostid", map[string]any{"hostids": []string{h.ID}}); findErr == nil && len(left) == 0 {
				continue
			}
		}
		if err != nil {
			errs = append(errs, onHost("host %s, whose "+h.kind()+" is gone, cannot be removed: %w", h.Name, err))
			continue
		}
		delete(p.made, h.Name)
		p.Log.Info("a host was removed", "host", h.Name, "kind", h.kind())
	}
	return errs
}

// hosts reads hosts, older ones first.
func (p *provisioner) hosts(ctx context.Context, which map[string]any) ([]host, error) {
	params := map[string]any{
		"output":     []string{"hostid", "host", "status"},
		"selectTags": []string{"tag", "value"}, "selectHostGroups": []string{"groupid"}, "selectParentTemplates": []string{"templateid"},
	}
	maps.Copy(params, which)
	var hosts []host
	err := p.api.call(ctx, "host.get", params, &hosts)
	slices.SortFunc(hosts, func(a, b host) int { // by the number
		return cmp.Or(cmp.Compare(len(a.ID), len(b.ID)), strings.Compare(a.ID, b.ID))
	})
	return hosts, err
}

// ensureNamed makes sure of a group.
func (p *provisioner) ensureNamed(ctx context.Context, object, ids, name string) (string, error) {
	return ensure(
		func() (string, error) {
			return first(p.api.find(ctx, object, "groupid", map[string]any{"name": []string{name}}))
		},
		func() (string, error) { return p.api.create(ctx, object, ids, map[string]any{"name": name}) },
	)
}

func (p *provisioner) template(ctx context.Context, name string) (string, error) {
	return first(p.api.find(ctx, "template", "templateid", map[string]any{"host": []string{name}}))
}

func first(ids []string, err error) (string, error) {
	if err != nil || len(ids) == 0 {
		return "", err
	}
	return ids[0], nil
}

// ensureMemberTemplate makes sure of the template of members, its items and its trigger. What
// a user has changed in them stays.
func (p *provisioner) ensureMemberTemplate(ctx context.Context) (string, error) {
	group, err := p.ensureNamed(ctx, "templategroup", "groupids", templateGroup)
	if err != nil {
		return "", err
	}
	template, err := ensure(
		func() (string, error) { return p.template(ctx, memberTemplate) },
		func() (string, error) {
			return p.api.create(ctx, "template", "templateids", map[string]any{
				"host": memberTemplate, "groups": []ref{{Group: group}},
				"description": "A member of an application of OpenManage. Its provisioner sends the values.",
			})
		},
	)
	if err != nil {
		return "", err
	}
	for _, item := range []map[string]any{
		{"key_": keyHealthy, "name": "Healthy", "value_type": valueUnsigned, "description": "1: it is; 0: it is not."},
		{"key_": keyRole, "name": "Role", "value_type": valueText},
		{"key_": keyState, "name": "State", "value_type": valueText},
		{"key_": keyDisk, "name": "Volume in use", "value_type": valueFloat, "units": "%"},
	} {
		item["hostid"], item["type"] = template, itemTrapper
		_, err := ensure(
			func() (string, error) { return p.ofTemplate(ctx, "item", "itemid", template, "key_", item["key_"]) },
			func() (string, error) { return p.api.create(ctx, "item", "itemids", item) },
		)
		if err != nil {
			return "", err
		}
	}
	const name = "{HOST.NAME} is not healthy"
	_, err = ensure(
		func() (string, error) {
			return p.ofTemplate(ctx, "trigger", "triggerid", template, "description", name)
		},
		func() (string, error) {
			return p.api.create(ctx, "trigger", "triggerids", map[string]any{
				"description": name, "priority": priorityHigh,
				"expression": fmt.Sprintf("max(/%s/%s,2m)=0", memberTemplate, keyHealthy),
			})
		},
	)
	return template, err
}

// ofTemplate finds an item or a trigger of a template.
func (p *provisioner) ofTemplate(ctx context.Context, object, id, template, field string, value any) (string, error) {
	return first(p.api.findWith(ctx, object, id, map[string]any{"templateids": []string{template}, "filter": map[string]any{field: []any{value}}}))
}
