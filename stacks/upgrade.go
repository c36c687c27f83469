package stacks

import (
	"errors"
	"fmt"
	"path"
	"regexp"
	"strconv"
	"strings"

	"github.com/distribution/reference"
)

// ErrUpgrade: the data cannot be used with that image.
var ErrUpgrade = errors.New("not upgraded")

// CheckUpgrade tells whether members that run from can run to on their data, as far
// as the tags say. note is something to know about it, or "".
func (a *App) CheckUpgrade(from, to string) (note string, err error) {
	old, known := versionOf(from)
	next, alsoKnown := versionOf(to)
	if !known || !alsoKnown || old.image != next.image || len(a.Image.Majors) == 0 {
		return "", nil // the engine looks at the data before it starts anything
	}
	if old.major != next.major {
		return "", fmt.Errorf("%w: %s %d cannot open the data of %s %d, and changing the image does not convert it\nMake another application with %s, and move the data with a dump", ErrUpgrade, a.Title, next.major, a.Title, old.major, to)
	}
	if old.minor < 0 || next.minor < 0 || next.minor >= old.minor {
		return "", nil
	}
	if a.Image.Downgrade == "" {
		return "", fmt.Errorf("%w: %d.%d is older than %d.%d, and %s cannot go back", ErrUpgrade, next.major, next.minor, old.major, old.minor, a.Title)
	}
	return fmt.Sprintf("%d.%d is older than %d.%d: %s", next.major, next.minor, old.major, old.minor, a.Image.Downgrade), nil
}

// tagVersion is what an image's tag says.
type tagVersion struct {
	image string // the last part of its name, whatever registry it is in
	major int
	minor int // -1: the tag does not say
}

var tagMinor = regexp.MustCompile(`^v?[0-9]+\.([0-9]+)`)

func versionOf(image string) (tagVersion, bool) {
	image, _, _ = strings.Cut(image, "@")
	major, ok := majorVersion(image)
	if !ok {
		return tagVersion{}, false
	}
	ref, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return tagVersion{}, false
	}
	v := tagVersion{image: path.Base(ref.Name()), major: major, minor: -1}
	if tagged, ok := ref.(reference.NamedTagged); ok {
		if m := tagMinor.FindStringSubmatch(tagged.Tag()); m != nil {
			if minor, err := strconv.Atoi(m[1]); err == nil {
				v.minor = minor
			}
		}
	}
	return v, true
}
