package memberagent

import (
	"fmt"
	"os/user"
	"strconv"
	"syscall"
)

// User returns the credential of a user of the image, with all its groups, by
// /etc/passwd and /etc/group.
func User(name string) (*syscall.Credential, error) {
	u, err := user.Lookup(name)
	if err != nil {
		return nil, fmt.Errorf("the image has no user %q to run the server as: %w", name, err)
	}
	credential := &syscall.Credential{}
	ids := []struct {
		text string
		to   *uint32
	}{{u.Uid, &credential.Uid}, {u.Gid, &credential.Gid}}
	for _, id := range ids {
		n, err := strconv.ParseUint(id.text, 10, 32)
		if err != nil {
			return nil, fmt.Errorf("user %q of the image: %w", name, err)
		}
		*id.to = uint32(n)
	}
	groups, err := u.GroupIds()
	if err != nil {
		return nil, fmt.Errorf("groups of user %q of the image: %w", name, err)
	}
	for _, group := range groups {
		if n, err := strconv.ParseUint(group, 10, 32); err == nil {
			credential.Groups = append(credential.Groups, uint32(n))
		}
	}
	return credential, nil
}
