package images

import (
	"context"
	"encoding/xml"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/openmanage/openmanage/testenv/host"
)

// Artifacts are what a recipe takes from Maven Central, for servers that are not in Debian.
type Artifacts struct {
	// Jars, as group:artifact:version, are put into Into with all they need at run time.
	Jars []string `json:",omitempty"`
	// Zips, as group:artifact:version, are unpacked into Into without their topmost folder.
	Zips []string `json:",omitempty"`
	// Into is a folder of the result.
	Into string
}

type pom struct {
	XMLName      xml.Name     `xml:"project"`
	ModelVersion string       `xml:"modelVersion"`
	Group        string       `xml:"groupId"`
	Artifact     string       `xml:"artifactId"`
	Version      string       `xml:"version"`
	Dependencies []dependency `xml:"dependencies>dependency"`
}

type dependency struct {
	Group    string `xml:"groupId"`
	Artifact string `xml:"artifactId"`
	Version  string `xml:"version"`
	Type     string `xml:"type"`
}

// fetch puts the artifacts into tree, a copy of what the result gets.
func (a *Artifacts) fetch(ctx context.Context, work, tree string) error {
	into := filepath.Join(tree, a.Into)
	if err := os.MkdirAll(into, 0o755); err != nil {
		return err
	}
	if len(a.Jars) > 0 {
		if err := maven(ctx, filepath.Join(work, "jars"), a.Jars, "jar", "copy-dependencies", "-DincludeScope=runtime", "-DoutputDirectory="+into); err != nil {
			return err
		}
	}
	if len(a.Zips) == 0 {
		return nil
	}
	unpacked := filepath.Join(work, "unpacked")
	if err := maven(ctx, filepath.Join(work, "zips"), a.Zips, "zip", "unpack-dependencies", "-DexcludeTransitive=true", "-DoutputDirectory="+unpacked); err != nil {
		return err
	}
	tops, err := filepath.Glob(filepath.Join(unpacked, "*"))
	if err != nil {
		return err
	}
	for _, top := range tops {
		if info, err := os.Stat(top); err != nil || !info.IsDir() {
			continue // Maven's own marks
		}
		if _, err := host.Run(ctx, "cp", "--archive", top+"/.", into); err != nil {
			return err
		}
	}
	return nil
}

// maven runs a goal of the dependency plugin on these artifacts.
func maven(ctx context.Context, folder string, artifacts []string, kind, goal string, options ...string) error {
	p := pom{ModelVersion: "4.0.0", Group: "openmanage", Artifact: "testenv", Version: "1"}
	for _, artifact := range artifacts {
		part := strings.Split(artifact, ":")
		if len(part) != 3 {
			return fmt.Errorf("artifact %q is not group:artifact:version", artifact)
		}
		p.Dependencies = append(p.Dependencies, dependency{part[0], part[1], part[2], kind})
	}
	doc, err := xml.Marshal(p)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	file := filepath.Join(folder, "pom.xml")
	if err := os.WriteFile(file, doc, 0o600); err != nil {
		return err
	}
	args := append([]string{"-n", "5", "mvn", "--quiet", "--batch-mode", "--file", file, "dependency:" + goal}, options...)
	if _, err := host.Run(ctx, "nice", args...); err != nil {
		return fmt.Errorf("fetch %s with Maven, which must be installed and reach Maven Central or a mirror: %w", strings.Join(artifacts, ", "), err)
	}
	return nil
}
