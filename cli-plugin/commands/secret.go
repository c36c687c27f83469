package commands

import (
	"context"
	"fmt"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/client"

	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/stacks"
)

// ensureSecret makes a secret of an application, with a random value that is kept
// nowhere else, and says whether it did. One that exists is kept: the database
// knows its value.
func ensureSecret(ctx context.Context, docker client.APIClient, typeID, application string, secret stacks.Secret) (bool, error) {
	name := stacks.SecretName(application, secret.Name)
	res, err := docker.SecretList(ctx, client.SecretListOptions{Filters: make(client.Filters).Add("name", name)})
	if err != nil {
		return false, fmt.Errorf("look for secret %s: %w", name, err)
	}
	for _, s := range res.Items {
		if s.Spec.Name == name { // the filter matches prefixes
			return false, nil
		}
	}
	value, err := secret.Make(application)
	if err != nil {
		return false, fmt.Errorf("secret %s: %w", name, err)
	}
	_, err = docker.SecretCreate(ctx, client.SecretCreateOptions{Spec: swarm.SecretSpec{
		Annotations: swarm.Annotations{Name: name, Labels: map[string]string{api.LabelApplication: application, api.LabelType: typeID}},
		Data:        value,
	}})
	if cerrdefs.IsConflict(err) || cerrdefs.IsAlreadyExists(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("make secret %s: %w", name, err)
	}
	return true, nil
}
