package swarmmanager

import (
	"context"
	"slices"
	"time"

	dockerswarm "github.com/moby/moby/api/types/swarm"

	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/internal/swarm"
)

// serviceView is the services of members, as they were read last. Docker's events say
// which to read again; to list all of a large Swarm takes far longer than to look at
// what has changed. Only one look at a time uses it.
type serviceView struct {
	cluster *swarm.Cluster

	of     map[string][]dockerswarm.Service // by application; nil: not listed
	by     map[string]string                // application by service ID
	listed time.Time
}

// rereadAtMost is how many services or applications are read one by one; if there are
// more, all are listed.
const rereadAtMost = 100

// all returns the services by application. They are listed anew if that was last done
// longer than age ago. The map is not to be changed.
func (s *serviceView) all(ctx context.Context, age time.Duration) (map[string][]dockerswarm.Service, error) {
	if s.of != nil && time.Since(s.listed) < age {
		return s.of, nil
	}
	at := time.Now()
	found, err := s.cluster.Services(ctx)
	if err != nil {
		return nil, err
	}
	s.of, s.by, s.listed = map[string][]dockerswarm.Service{}, map[string]string{}, at
	for _, one := range found {
		s.put(one)
	}
	return s.of, nil
}

// read reads services again by their IDs, and returns whose they are or were.
func (s *serviceView) read(ctx context.Context, ids []string) (applications []string, err error) {
	found, err := s.cluster.ServicesOf(ctx, "id", ids...)
	if err != nil {
		return nil, err
	}
	for _, id := range ids {
		if application, known := s.by[id]; known {
			applications = append(applications, application)
			s.drop(id)
		}
		if one, exists := found[id]; exists && s.put(one) {
			applications = append(applications, s.by[id])
		}
	}
	return applications, nil
}

// readApplication reads the services of an application again.
func (s *serviceView) readApplication(ctx context.Context, application string) error {
	found, err := s.cluster.ServicesOf(ctx, "label", api.LabelApplication+"="+application)
	if err != nil {
		return err
	}
	for _, one := range slices.Clone(s.of[application]) {
		s.drop(one.ID)
	}
	for id, one := range found {
		s.drop(id)
		s.put(one)
	}
	return nil
}

// put notes a service; false: it is no member's.
func (s *serviceView) put(one dockerswarm.Service) bool {
	application := one.Spec.Labels[api.LabelApplication]
	if application == "" || memberName(one) == "" {
		return false
	}
	s.of[application] = append(s.of[application], one)
	s.by[one.ID] = application
	return true
}

func (s *serviceView) drop(id string) {
	application, known := s.by[id]
	if !known {
		return
	}
	delete(s.by, id)
	left := slices.DeleteFunc(s.of[application], func(one dockerswarm.Service) bool { return one.ID == id })
	if s.of[application] = left; len(left) == 0 {
		delete(s.of, application)
	}
}
