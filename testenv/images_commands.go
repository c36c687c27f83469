package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/openmanage/openmanage/testenv/cluster"
	"github.com/openmanage/openmanage/testenv/host"
	"github.com/openmanage/openmanage/testenv/images"
)

func imagesCommand(s *settings) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "images [NAME...]",
		Short: "Have official images in the registry; without a name list those that can be made here",
		RunE: func(cmd *cobra.Command, names []string) error {
			if len(names) == 0 {
				for _, name := range images.Names() {
					fmt.Fprintln(cmd.OutOrStdout(), name)
				}
				return nil
			}
			return withBuilder(cmd.Context(), s, func(b *images.Builder) error {
				return b.EnsureOfficial(cmd.Context(), names...)
			})
		},
	}
	cmd.AddCommand(productCommand(s), pluginCommand(s))
	return cmd
}

func productCommand(s *settings) *cobra.Command {
	var binary, name string
	cmd := &cobra.Command{
		Use:   "product",
		Short: "Make OpenManage's image and push it to the registry; needs no nodes",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return withBuilder(cmd.Context(), s, func(b *images.Builder) error {
				path, err := binaryOrBuild(cmd.Context(), b.Host, binary)
				if err != nil {
					return err
				}
				return b.Product(cmd.Context(), path, name)
			})
		},
	}
	cmd.Flags().StringVar(&binary, "binary", "", "static binary of openmanage (default built from ./cmd/openmanage)")
	cmd.Flags().StringVar(&name, "name", images.ProductImage, "name in the registry")
	return cmd
}

func pluginCommand(s *settings) *cobra.Command {
	var binary, config, name string
	cmd := &cobra.Command{
		Use:   "plugin",
		Short: "Make the managed volume plugin and push it to the registry; needs no nodes",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return withBuilder(cmd.Context(), s, func(b *images.Builder) error {
				path, err := binaryOrBuild(cmd.Context(), b.Host, binary)
				if err != nil {
					return err
				}
				return b.Plugin(cmd.Context(), path, config, name)
			})
		},
	}
	cmd.Flags().StringVar(&binary, "binary", "", "static binary of openmanage (default built from ./cmd/openmanage)")
	cmd.Flags().StringVar(&config, "config", "volumeplugin/config.json", "the plugin's configuration")
	cmd.Flags().StringVar(&name, "name", images.ProductPlugin, "name in the registry")
	return cmd
}

// withBuilder readies the machine for images, alone.
func withBuilder(ctx context.Context, s *settings, do func(*images.Builder) error) error {
	options := s.options()
	machine, err := host.New(options.StateDir, options.Progress)
	if err != nil {
		return err
	}
	unlock, err := machine.Lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	builder, err := cluster.Prepare(ctx, machine)
	if err != nil {
		return err
	}
	return do(builder)
}

func binaryOrBuild(ctx context.Context, machine *host.Host, binary string) (string, error) {
	if binary != "" {
		return binary, nil
	}
	return images.BuildBinary(ctx, machine, ".")
}
