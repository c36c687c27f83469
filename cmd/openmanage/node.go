package main

import (
	"context"
	"os"

	"github.com/openmanage/openmanage/internal/version"
	"github.com/openmanage/openmanage/memberagent"
	"github.com/openmanage/openmanage/stacks/plain"
	"github.com/openmanage/openmanage/stacks/postgresql"
	"github.com/openmanage/openmanage/volumeplugin"
)

func runVolumePlugin(ctx context.Context, _ []string) (int, error) {
	return failed(volumeplugin.Run(ctx, volumeplugin.Config{Version: version.Version}))
}

func runAgent(ctx context.Context, args []string) (int, error) {
	return memberagent.Main(ctx, args, os.Getenv, os.Stdout, os.Stderr, postgresql.Engine{}, plain.Engine{}), nil
}
