package main

import (
	"context"
	"fmt"
	"os"

	"github.com/openmanage/openmanage/internal/version"
	"github.com/openmanage/openmanage/memberagent"
	"github.com/openmanage/openmanage/stacks/postgresql"
	"github.com/openmanage/openmanage/volumeplugin"
)

func runVolumePlugin(ctx context.Context, _ []string) (int, error) {
	return failed(volumeplugin.Run(ctx, volumeplugin.Config{Version: version.Version}))
}

func runAgent(ctx context.Context, args []string) (int, error) {
	config, err := memberagent.FromEnv(os.Getenv)
	if err != nil {
		return 1, err
	}
	if len(args) > 0 && args[0] == "health" {
		why, err := memberagent.Health(ctx, config)
		fmt.Println(why)
		return failed(err)
	}
	config.Engines = []memberagent.Engine{postgresql.Engine{}}
	return failed(memberagent.Run(ctx, config))
}
