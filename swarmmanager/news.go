package swarmmanager

import (
	"maps"
	"sync"
)

// news are what has changed since the last look. They are hints that make a look
// soon and small; what is missed by them is found by the look at everything. Safe for
// concurrent use.
type news struct {
	wake chan struct{}

	mu sync.Mutex
	subjects
}

// subjects are what a look is to look at.
type subjects struct {
	everything   bool
	applications map[string]bool // by name
	services     map[string]bool // that Docker says have changed, by ID
	operations   bool            // a user has asked for something
}

func newNews() *news { return &news{wake: make(chan struct{}, 1)} }

func (n *news) note(edit func(*subjects)) {
	n.mu.Lock()
	edit(&n.subjects)
	n.mu.Unlock()
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

// all asks for a look at everything.
func (n *news) all() { n.note(func(s *subjects) { s.everything = true }) }

// about asks for a look at these applications.
func (n *news) about(applications ...string) {
	n.note(func(s *subjects) { s.add(applications...) })
}

func (n *news) service(id string) {
	n.note(func(s *subjects) {
		if s.services == nil {
			s.services = map[string]bool{}
		}
		s.services[id] = true
	})
}

// asked says that a user has asked for something.
func (n *news) asked() { n.note(func(s *subjects) { s.operations = true }) }

// ofServices tells whether Docker says that services have changed.
func (n *news) ofServices() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.services) > 0
}

// take returns the news and forgets them.
func (n *news) take() subjects {
	n.mu.Lock()
	defer n.mu.Unlock()
	s := n.subjects
	n.subjects = subjects{}
	return s
}

func (s *subjects) add(applications ...string) {
	if s.applications == nil {
		s.applications = map[string]bool{}
	}
	for _, name := range applications {
		s.applications[name] = true
	}
}

func (s *subjects) empty() bool {
	return !s.everything && !s.operations && len(s.applications) == 0 && len(s.services) == 0
}

// join adds what another look is to look at.
func (s *subjects) join(other subjects) {
	s.everything = s.everything || other.everything
	s.operations = s.operations || other.operations
	if len(other.applications) > 0 {
		s.add()
		maps.Copy(s.applications, other.applications)
	}
	if len(other.services) > 0 {
		if s.services == nil {
			s.services = map[string]bool{}
		}
		maps.Copy(s.services, other.services)
	}
}
