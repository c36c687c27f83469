// Package version tells which release of OpenManage a binary is.
package version

// Version is set when a release is built (-ldflags -X).
var Version = "dev"
