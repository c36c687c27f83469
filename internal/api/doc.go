// Package api holds the wire types that OpenManage's parts exchange: the plugin
// on a node with the leading manager (JSON over mutual TLS), an agent in a
// member's container with the plugin on its node (JSON over a unix socket), and
// the names and labels that all of them and the CLI must spell alike.
//
// It is the one package that every part may import. It holds types, constants
// and their validation, and no behaviour.
package api
