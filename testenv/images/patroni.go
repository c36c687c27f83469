package images

import "slices"

// patroniRecipe makes an image with Debian's Patroni and etcd around the same
// server as postgresRecipe's, for benchmarks to compare with. There is no official
// image of Patroni. version is only a label, to have two images.
func patroniRecipe(version string) Recipe {
	r := postgresRecipe(version)
	r.Name = "patroni"
	r.Packages = append(slices.Clone(r.Packages), "patroni", "python3-etcd", "etcd-server", "curl")
	r.Config = append(slices.DeleteFunc(slices.Clone(r.Config), func(instruction string) bool {
		return slices.Contains([]string{`ENTRYPOINT ["docker-entrypoint.sh"]`, `CMD ["postgres"]`, "STOPSIGNAL SIGINT"}, instruction)
	}),
		// Nobody makes it at the start, as the official image's entrypoint does.
		"RUN install --directory --owner=postgres --group=postgres --mode=3777 /var/run/postgresql",
		`CMD ["patroni", "/run/secrets/patroni.yml"]`)
	return r
}
