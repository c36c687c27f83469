package main

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/openmanage/openmanage/testenv/bench/measure"
)

// size measures image and plugin as the registry has them.
func size(ctx context.Context, b *bench) (measure.Result, error) {
	var result measure.Result
	for _, artifact := range []struct{ name, reference string }{
		{"image", b.ImageReference()},
		{"plugin", b.PluginReference()},
	} {
		packed, unpacked, err := registrySize(ctx, artifact.reference)
		if err != nil {
			return result, fmt.Errorf("%s: %w", artifact.name, err)
		}
		result.Measurements = append(result.Measurements,
			measure.Figure(artifact.name+", compressed in the registry", "MiB", measure.Sample{packed}),
			measure.Figure(artifact.name+", unpacked", "MiB", measure.Sample{unpacked}))
	}
	return result, nil
}

// registrySize adds up the layers of HOST:PORT/NAME:TAG, in MiB: as they are
// stored, and what the files in them hold.
func registrySize(ctx context.Context, reference string) (packed, unpacked float64, err error) {
	at, path, _ := strings.Cut(reference, "/")
	repository, tag, _ := strings.Cut(path, ":")
	base := "http://" + at + "/v2/" + repository
	body, err := fetch(ctx, base+"/manifests/"+tag)
	if err != nil {
		return 0, 0, err
	}
	defer body.Close()
	var manifest struct {
		Layers []struct {
			Size   int64
			Digest string
		}
	}
	if err := json.NewDecoder(body).Decode(&manifest); err != nil {
		return 0, 0, err
	}
	for _, layer := range manifest.Layers {
		content, err := layerContent(ctx, base+"/blobs/"+layer.Digest)
		if err != nil {
			return 0, 0, err
		}
		packed += float64(layer.Size) / (1 << 20)
		unpacked += float64(content) / (1 << 20)
	}
	return packed, unpacked, nil
}

// layerContent is the size of the files in a layer.
func layerContent(ctx context.Context, url string) (bytes int64, err error) {
	body, err := fetch(ctx, url)
	if err != nil {
		return 0, err
	}
	defer body.Close()
	plain, err := gzip.NewReader(body)
	if err != nil {
		return 0, err
	}
	archive := tar.NewReader(plain)
	for {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return bytes, nil
		}
		if err != nil {
			return 0, err
		}
		if header.Typeflag == tar.TypeReg {
			bytes += header.Size
		}
	}
}

func fetch(ctx context.Context, url string) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/vnd.docker.distribution.manifest.v2+json, application/vnd.oci.image.manifest.v1+json")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	if res.StatusCode != http.StatusOK {
		res.Body.Close()
		return nil, fmt.Errorf("%s: %s", url, res.Status)
	}
	return res.Body, nil
}
