package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/openmanage/openmanage/testenv/cluster"
	"github.com/openmanage/openmanage/testenv/host"
	"github.com/openmanage/openmanage/testenv/images"
	"github.com/openmanage/openmanage/testenv/progress"
)

// settings are the options of every command.
type settings struct {
	stateDir string
	quiet    bool
}

func (s *settings) options() cluster.Options {
	options := cluster.Options{StateDir: s.stateDir}
	if !s.quiet {
		options.Progress = progress.To(os.Stderr)
	}
	return options
}

func rootCommand() *cobra.Command {
	s := &settings{}
	root := &cobra.Command{
		Use:           "testenv",
		Short:         "A real multi-node Docker Swarm on one machine",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.PersistentFlags().StringVar(&s.stateDir, "state-dir", host.DefaultStateDir, "where everything is stored")
	root.PersistentFlags().BoolVarP(&s.quiet, "quiet", "q", false, "do not report progress")
	root.AddCommand(
		setupCommand(s), upCommand(s), downCommand(s), statusCommand(s), addCommand(s), execCommand(s), imagesCommand(s),
		cutCommand(s), healCommand(s), restartDockerCommand(s), killPluginCommand(s),
		nodeCommand(s, "kill", "Switch nodes off, as a power cut does", (*cluster.Node).Kill),
		nodeCommand(s, "start", "Switch nodes on again", func(n *cluster.Node, ctx context.Context) error {
			if err := n.Start(ctx); err != nil {
				return err
			}
			return n.WaitReady(ctx)
		}),
		nodeCommand(s, "pause", "Freeze nodes", (*cluster.Node).Pause),
		nodeCommand(s, "unpause", "Let frozen nodes go on", (*cluster.Node).Unpause),
	)
	return root
}

func upCommand(s *settings) *cobra.Command {
	var options cluster.Options
	var subnet string
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Make and start the Swarm; what is there is used",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			common := s.options()
			options.StateDir, options.Progress = common.StateDir, common.Progress
			if subnet != "" {
				var err error
				if options.Subnet, err = netip.ParsePrefix(subnet); err != nil {
					return fmt.Errorf("--subnet %s is no network such as 10.213.0.0/24", subnet)
				}
			}
			_, err := cluster.Up(cmd.Context(), options)
			return err
		},
	}
	cmd.Flags().IntVar(&options.Nodes, "nodes", 3, "how many nodes")
	cmd.Flags().IntVar(&options.Managers, "managers", 0, "how many of them are managers (default all)")
	cmd.Flags().StringVar(&subnet, "subnet", "", "the nodes' network (default the first free one from 10.213.0.0/24 on)")
	cmd.Flags().StringSliceVar(&options.Images, "image", nil, "official images to have in the registry (see `testenv images`)")
	return cmd
}

func downCommand(s *settings) *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:   "down",
		Short: "Remove the nodes with all they store; images stay",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return cluster.Down(cmd.Context(), s.options(), all)
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "also remove images, the registry, and the Docker engine if testenv started it")
	return cmd
}

func statusCommand(s *settings) *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show nodes, their part in the Swarm, and what is cut",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := cluster.Open(cmd.Context(), s.options())
			if err != nil {
				return err
			}
			statuses, swarmError, err := c.Status(cmd.Context())
			if err != nil {
				return err
			}
			printStatus(cmd, statuses)
			names, err := images.InRegistry(cmd.Context(), c.Host)
			fmt.Fprintf(cmd.OutOrStdout(), "\nImages: %s\n", strings.Join(names, " "))
			return errors.Join(swarmError, err)
		},
	}
}

func printStatus(cmd *cobra.Command, statuses []cluster.NodeStatus) {
	table := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 3, ' ', 0)
	fmt.Fprintln(table, "NODE\tIP\tCONTAINER\tROLE\tSTATE\tAVAILABILITY\tSTORAGE\tENGINE\tID\tCUT")
	for _, status := range statuses {
		var cuts []string
		for _, cut := range status.Cuts {
			cuts = append(cuts, cut.From+"→"+cut.To)
		}
		fields := []string{status.Name, status.IP, status.Container, status.Role, status.State, status.Availability,
			status.Storage, status.Engine, status.SwarmID, strings.Join(cuts, " ")}
		for i, field := range fields {
			if field == "" {
				fields[i] = "-"
			}
		}
		fmt.Fprintln(table, strings.Join(fields, "\t"))
	}
	table.Flush()
}

func addCommand(s *settings) *cobra.Command {
	var options cluster.AddOptions
	cmd := &cobra.Command{
		Use:   "add",
		Short: "Add a node",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := cluster.Open(cmd.Context(), s.options())
			if err != nil {
				return err
			}
			node, err := c.Add(cmd.Context(), options)
			if err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), node.Name)
			return nil
		},
	}
	cmd.Flags().BoolVar(&options.Manager, "manager", false, "the node manages the Swarm")
	cmd.Flags().BoolVar(&options.LocalStorage, "local-storage", false, "the node has a storage folder of its own")
	return cmd
}

// nodeCommand makes a command that does one thing to the nodes named.
func nodeCommand(s *settings, name, short string, do func(*cluster.Node, context.Context) error) *cobra.Command {
	return &cobra.Command{
		Use:   name + " NODE...",
		Short: short,
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return onNodes(cmd.Context(), s, args, func(_ *cluster.Cluster, node *cluster.Node) error {
				return do(node, cmd.Context())
			})
		},
	}
}

func cutCommand(s *settings) *cobra.Command {
	var from []string
	var oneWay bool
	cmd := &cobra.Command{
		Use:   "cut NODE",
		Short: "Let no traffic pass between a node and the others",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return onNodes(cmd.Context(), s, args, func(c *cluster.Cluster, node *cluster.Node) error {
				others, err := findNodes(c, from)
				if err != nil {
					return err
				}
				if oneWay {
					return node.CutOneWay(cmd.Context(), others...)
				}
				return node.Cut(cmd.Context(), others...)
			})
		},
	}
	cmd.Flags().StringSliceVar(&from, "from", nil, "only from these nodes (default all others)")
	cmd.Flags().BoolVar(&oneWay, "one-way", false, "drop only what the node sends; it still hears the others")
	return cmd
}

func healCommand(s *settings) *cobra.Command {
	return &cobra.Command{
		Use:   "heal [NODE...]",
		Short: "Undo cut; without a node undo everything and wait until all are ready",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return onNodes(cmd.Context(), s, args, func(_ *cluster.Cluster, node *cluster.Node) error {
					return node.Heal(cmd.Context())
				})
			}
			c, err := cluster.Open(cmd.Context(), s.options())
			if err != nil {
				return err
			}
			return c.Heal(cmd.Context())
		},
	}
}

func restartDockerCommand(s *settings) *cobra.Command {
	var kill bool
	cmd := &cobra.Command{
		Use:   "restart-docker NODE...",
		Short: "Restart the Docker engine of nodes",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return onNodes(cmd.Context(), s, args, func(_ *cluster.Cluster, node *cluster.Node) error {
				return node.RestartDocker(cmd.Context(), kill)
			})
		},
	}
	cmd.Flags().BoolVar(&kill, "kill", false, "end it with kill -9 first")
	return cmd
}

func killPluginCommand(s *settings) *cobra.Command {
	var plugin string
	cmd := &cobra.Command{
		Use:   "kill-plugin NODE...",
		Short: "End the volume plugin's process with kill -9; the engine starts it again",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return onNodes(cmd.Context(), s, args, func(_ *cluster.Cluster, node *cluster.Node) error {
				return node.KillPlugin(cmd.Context(), plugin)
			})
		},
	}
	cmd.Flags().StringVar(&plugin, "plugin", "openmanage", "name of the managed plugin")
	return cmd
}

func execCommand(s *settings) *cobra.Command {
	return &cobra.Command{
		Use:   "exec NODE -- COMMAND [ARG...]",
		Short: "Run a command on a node",
		Args:  cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return onNodes(cmd.Context(), s, args[:1], func(_ *cluster.Cluster, node *cluster.Node) error {
				return runOn(cmd.Context(), node, args[1:])
			})
		},
	}
}

// runOn runs a command on a node with our own input and output, and ends with
// its exit status.
func runOn(ctx context.Context, node *cluster.Node, command []string) error {
	args := append([]string{"--host", host.EngineHost, "exec", "--interactive", node.Container()}, command...)
	run := exec.CommandContext(ctx, "docker", args...)
	run.Stdin, run.Stdout, run.Stderr = os.Stdin, os.Stdout, os.Stderr
	err := run.Run()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && exit.ExitCode() > 0 {
		os.Exit(exit.ExitCode())
	}
	return err
}

// onNodes finds the nodes named and does something with each in turn.
func onNodes(ctx context.Context, s *settings, names []string, do func(*cluster.Cluster, *cluster.Node) error) error {
	c, err := cluster.Open(ctx, s.options())
	if err != nil {
		return err
	}
	nodes, err := findNodes(c, names)
	if err != nil {
		return err
	}
	for _, node := range nodes {
		if err := do(c, node); err != nil {
			return err
		}
	}
	return nil
}

// findNodes takes numbers and names: 2, node2, openmanage-node2.
func findNodes(c *cluster.Cluster, names []string) ([]*cluster.Node, error) {
	var nodes []*cluster.Node
	for _, name := range names {
		number, err := strconv.Atoi(strings.TrimPrefix(strings.TrimPrefix(name, "openmanage-"), "node"))
		if err != nil {
			return nil, fmt.Errorf("%q names no node; give its number, such as 2", name)
		}
		node, err := c.Node(number)
		if err != nil {
			return nil, err
		}
		nodes = append(nodes, node)
	}
	return nodes, nil
}

func setupCommand(s *settings) *cobra.Command {
	return &cobra.Command{
		Use:   "setup",
		Short: "Install what the test environment and the project's tests need on this machine",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			options := s.options()
			machine, err := host.New(options.StateDir, options.Progress)
			if err != nil {
				return err
			}
			return machine.EnsureTestPackages(cmd.Context())
		},
	}
}
