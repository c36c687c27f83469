package swarmmanager

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/docker/go-units"
	dockerswarm "github.com/moby/moby/api/types/swarm"

	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/internal/store"
)

// How full the volumes of an application are, and what follows from that.
//
// A database whose volume is full ends, comes up, and ends again. Another member in
// its place has the same data and soon the same end: so a full volume is no reason
// for a change of the primary, unless somebody clearly has more room, and then once.

const (
	// alertDisk is from which percentage on the use of a volume is reported, if
	// the application's label does not say otherwise.
	alertDisk = 85
	// A volume is almost full from almostPercent on, or with less than almostFree
	// bytes left, where that is less than a quarter.
	almostPercent = 95
	almostFree    = 64 << 20
	// A level is left only when the use is slack percent below what led to it, or
	// the free space half as much again.
	slack = 2
	// The storage of a node is low with less than storageLow bytes, or a twentieth
	// of a smaller one, and no longer with half as much again.
	storageLow = 2 << 30
)

var diskLevels = []store.DiskLevel{store.DiskFine, store.DiskFilling, store.DiskAlmostFull, store.DiskFull}

// diskLevel is how full a volume is that was at level was before.
func diskLevel(u api.Usage, was store.DiskLevel, percent int) store.DiskLevel {
	if !u.Known() {
		return was
	}
	above := func(relaxed bool) int {
		less, almost := 0.0, int64(almostFree)
		if relaxed {
			less, almost = slack, almost*3/2
		}
		switch used := max(u.Percent(), u.FilesPercent()) + less; {
		case u.Full(relaxed):
			return 3
		case used >= almostPercent, u.Free < min(almost, u.Size()/4):
			return 2
		case used >= float64(percent):
			return 1
		}
		return 0
	}
	// It rises at the threshold and falls only some way below it.
	return diskLevels[max(above(false), min(above(true), slices.Index(diskLevels, was)))]
}

// planDisks notes how full the volumes of app are and reports it.
func planDisks(o *observed, old store.Application, app *store.Application, first dockerswarm.Service, event eventFunc) {
	percent := alertPercent(app, first)
	was := map[string]store.DiskLevel{}
	for _, m := range old.Members {
		was[m.Name] = m.Disk
	}
	at := map[store.DiskLevel][]string{}
	for i := range app.Members {
		m := &app.Members[i]
		usage, _ := usageOf(o, *m)
		m.Disk = diskLevel(usage, was[m.Name], percent)
		if m.Disk != store.DiskFine {
			at[m.Disk] = append(at[m.Disk], m.Volume)
		}
		switch m.Disk {
		case was[m.Name]:
		case store.DiskFine:
			event(m.Name, "alert", "volume %s has room again: %s", m.Volume, usageWords(usage))
		default:
			event(m.Name, "alert", "volume %s is %s: %s", m.Volume, m.Disk, usageWords(usage))
		}
		if m.Name == app.Primary && was[m.Name] == store.DiskFull && m.Disk != store.DiskFull && app.PrimaryDown != nil {
			// It can come up now, and gets the time that any other has for it.
			now := o.now
			app.PrimaryDown = &now
		}
	}
	app.DiskFailover = app.DiskFailover && at[store.DiskFull] != nil
	for _, level := range slices.Backward(diskLevels[1:]) {
		if volumes := at[level]; volumes != nil {
			app.Problems = append(app.Problems, fmt.Sprintf("%s: %s %s; enlarge the volumes: %s",
				level, plural(volumes, "volume"), levelWords(level, percent), expandCommand(o, app)))
		}
	}
	planStorage(o, old, app, event)
}

// alertPercent reads the policy label; a value that makes no sense is reported and
// the default taken.
func alertPercent(app *store.Application, s dockerswarm.Service) int {
	text, ok := s.Spec.Labels[api.LabelAlertDisk]
	if !ok {
		return alertDisk
	}
	percent, err := strconv.Atoi(strings.TrimSuffix(text, "%"))
	if err != nil || percent < 1 || percent > 99 {
		app.Problems = append(app.Problems, fmt.Sprintf("label %s=%q on service %s is no percentage; write a number from 1 to 99, %d is in force", api.LabelAlertDisk, text, s.Spec.Name, alertDisk))
		return alertDisk
	}
	return percent
}

// usageOf is what the node that holds the member's volume reports of it.
func usageOf(o *observed, m store.Member) (api.Usage, bool) {
	v := o.volumes[m.Volume].Value
	if v.Owner == nil {
		return api.Usage{}, false
	}
	held, ok := heldVolume(o.reports[v.Owner.Node], m.Volume)
	if !ok || held.Epoch != v.Epoch {
		return api.Usage{}, false
	}
	return held.Usage, held.Known()
}

func usageWords(u api.Usage) string {
	if u.FilesPercent() > u.Percent() {
		return fmt.Sprintf("%.0f %% of its files in use", u.FilesPercent())
	}
	return fmt.Sprintf("%.0f %% of %s in use", u.Percent(), units.BytesSize(float64(u.Size())))
}

func levelWords(level store.DiskLevel, percent int) string {
	switch level {
	case store.DiskFull:
		return "can take no more, and the database cannot write"
	case store.DiskAlmostFull:
		return fmt.Sprintf("with %d %% or more in use or less than %s free", almostPercent, units.BytesSize(almostFree))
	}
	return fmt.Sprintf("with %d %% or more in use", percent)
}

func plural(names []string, word string) string {
	if len(names) > 1 {
		word += "s"
	}
	return word + " " + strings.Join(names, ", ")
}

// expandCommand is how to enlarge the volumes of app: to twice the largest, and a
// half more if that is very large. An expansion that was begun is to be ended first.
func expandCommand(o *observed, app *store.Application) string {
	var size int64
	pending := false
	for _, m := range app.Members {
		v := o.volumes[m.Volume].Value
		size = max(size, v.Size)
		if v.Owner != nil {
			held, ok := heldVolume(o.reports[v.Owner.Node], m.Volume)
			pending = pending || ok && held.Size > 0 && held.Size < v.Size
		}
	}
	if !pending {
		size = suggestedSize(size)
	}
	return fmt.Sprintf("docker openmanage volume expand %s --size %s", app.Name, sizeWords(size))
}

// suggestedSize is a sensible next size for volumes of this one.
func suggestedSize(size int64) int64 {
	unit := int64(1 << 20)
	if size >= 10<<30 {
		unit = 1 << 30
	}
	more := size
	if size > 200<<30 {
		more = size / 2
	}
	return (size + more + unit - 1) / unit * unit
}

// sizeWords writes a size so that it is read as no less.
func sizeWords(size int64) string {
	switch {
	case size%(1<<30) == 0:
		return fmt.Sprintf("%dGiB", size>>30)
	case size%(1<<20) == 0:
		return fmt.Sprintf("%dMiB", size>>20)
	}
	return fmt.Sprint(size)
}

// planStorage reports the folders of volumes that have little room left: images are
// sparse, and what a volume was promised may not be there.
func planStorage(o *observed, old store.Application, app *store.Application, event eventFunc) {
	var locations []string
	for _, m := range app.Members {
		if location := o.volumes[m.Volume].Value.Location; location != "" {
			locations = append(locations, location)
		}
	}
	slices.Sort(locations)
	app.StorageLow = nil
	for _, location := range slices.Compact(locations) {
		was := slices.Contains(old.StorageLow, location)
		node, storage := storageOf(o, location)
		limit := min(storageLow, storage.Total/20)
		if was {
			limit = limit * 3 / 2
		}
		switch low := storage.Free < limit; {
		case node == "" && was: // not heard
			app.StorageLow = append(app.StorageLow, location)
		case low:
			app.StorageLow = append(app.StorageLow, location)
			words := "less than " + roughly(storage.Free) + " free"
			app.Problems = append(app.Problems, fmt.Sprintf("the storage of node %s, in which volumes lie, has %s: make room there, or databases cannot write, whatever the size of their volumes", node, words))
			if !was {
				event("", "alert", "the storage of node %s has %s", node, words)
			}
		case was:
			event("", "alert", "the storage of node %s has room again", node)
		}
	}
}

// storageOf is the folder of that ID as the first node by name sees it that has it.
func storageOf(o *observed, location string) (node string, storage api.Storage) {
	for id, r := range o.reports {
		name := o.nodes[id].Description.Hostname
		if r.Storage.Location == location && r.Storage.Total > 0 && (node == "" || name < node) {
			node, storage = name, r.Storage
		}
	}
	return node, storage
}

// roughly is the next power of two: a text that seldom changes, for records.
func roughly(free int64) string {
	size := int64(1 << 20)
	for size <= free {
		size *= 2
	}
	return units.BytesSize(float64(size))
}

// outOfRoom tells whether a member does not run, or not well, because its volume
// has no room. Nothing but room helps it, so nothing is gained by letting it run.
func outOfRoom(m store.Member) bool {
	return !m.Healthy && (m.Disk == store.DiskFull || m.Disk == store.DiskAlmostFull)
}

// lostToFullDisk tells whether a primary that is lost is so, as far as is known,
// because its volume is full: its node is there, and could run it.
func lostToFullDisk(o *observed, primary store.Member) bool {
	v := o.volumes[primary.Volume].Value
	return primary.Disk == store.DiskFull && (v.Owner == nil || !o.gone(v))
}

// keptOutByFullDisk says why to does not take the place of a primary that is lost to
// a full disk, or "".
func keptOutByFullDisk(o *observed, app *store.Application, primary, to store.Member) string {
	v := o.volumes[primary.Volume].Value
	enlarged := v.Owner == nil // by a mount
	if v.Owner != nil {
		held, ok := heldVolume(o.reports[v.Owner.Node], primary.Volume)
		enlarged = ok && held.Size < v.Size
	}
	switch {
	case enlarged && o.now.Sub(primary.Since) < growPatience:
		return "its volume is full and is being enlarged: it comes back"
	case app.DiskFailover:
		return "its volume is full, and so is a former primary's: there is one change for that and no second"
	case to.Disk == store.DiskFull || to.Disk == store.DiskAlmostFull:
		return fmt.Sprintf("its volume is full, and that of %s is %s too: it would end the same way", to.Name, to.Disk)
	}
	return ""
}
