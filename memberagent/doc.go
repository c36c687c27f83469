// Package memberagent is PID 1 in a member's container. The official image of
// a database runs unmodified; the stack sets its entrypoint to this agent, which
// supervises the real server:
//
//   - it asks the volume plugin on its node, every half second, whether this
//     container holds the lease of its data volume, and what the leader orders;
//   - it starts an engine only while the lease is held, and ends it with SIGKILL
//     if it must when the lease runs out, whatever else goes on;
//   - it bootstraps or joins as ordered, probes the server and reports;
//   - it promotes, hands over, follows another or nobody at once when the orders
//     change, and says with Term when the member is in line with them;
//   - on SIGTERM or SIGINT it stops the server in order and exits.
//
// How it hangs together: the reporter (report.go) renews the lease (lease.go) and
// fetches orders, at once when the plugin has news; the fence (fence.go) watches
// nothing but the lease and kills; the supervisor (supervise.go) lives one turn after
// the other, a turn being the time from having lease and orders to the end of the
// server; every process is started through Processes (process.go), which refuses
// without a lease. What is special to a database is behind Engine (engine.go).
//
// The agent writes only to the data volume and to folders for run-time files. It
// never gives up on its own: what cannot be done is reported in plain words and
// tried again, because a new container would find the same.
package memberagent
