package e2e

import (
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"encoding/base64"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
	"gotest.tools/v3/assert"
)

const wireguardImage = "linuxserver/wireguard:1.0.20250521"

// The keys of the tests' peer of a VPN.
var peerPrivate, peerPublic = func() (string, string) {
	key, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		panic(err)
	}
	return base64.StdEncoding.EncodeToString(key.Bytes()), base64.StdEncoding.EncodeToString(key.PublicKey().Bytes())
}()

// throughVPN comes in as a peer and asks the time server behind, in a network that the peer
// has no other way to.
const throughVPN = `set -e
cat >/tmp/wg0.conf <<end
[Interface]
PrivateKey = $PEER_KEY
Address = 10.99.0.2/32
[Peer]
PublicKey = $(echo "$SERVER_KEY" | wg pubkey)
Endpoint = vpn-1:51820
AllowedIPs = $TARGET/32
end
if timeout 3 /use/use time $TARGET 2>/dev/null; then echo "there is another way to $TARGET" >&2; exit 1; fi
wg-quick up /tmp/wg0.conf
/use/use time $TARGET
`

// behindVPN is what the peer has to know, and where the time server is now.
func behindVPN(ctx context.Context, s *suite) ([]string, error) {
	out, err := s.Docker(ctx, "run", "--rm", "--network", "behind_default", "debian:trixie-slim", "getent", "hosts", "behind-1")
	address, _, _ := strings.Cut(out, " ")
	return []string{"PEER_KEY=" + peerPrivate, "TARGET=" + address}, err
}

// signatures stands in for ClamAV's network, as far as cvdupdate needs it: a name server that
// says which versions there are, and a server that has a database of ours and none of
// ClamAV's. It returns the options of create by which the mirror finds it.
func signatures(t *testing.T, s *suite) []string {
	t.Helper()
	gateway := s.c.Network.Gateway()
	names, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(gateway, 53)))
	assert.NilError(t, err)
	t.Cleanup(func() { names.Close() })
	go answerVersions(names)

	files, err := net.Listen("tcp", netip.AddrPortFrom(gateway, 0).String())
	assert.NilError(t, err)
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/house.hdb" {
			http.NotFound(w, r)
			return
		}
		_, _ = w.Write([]byte("44d88612fea8a8f36de82e1278abb02f:68:House.Test\n"))
	})}
	t.Cleanup(func() { server.Close() })
	go func() { _ = server.Serve(files) }()
	return []string{"--set", "nameserver=" + gateway.String(), "--set", "databases=house.hdb@http://" + files.Addr().String() + "/house.hdb"}
}

// answerVersions answers every question as ClamAV's name servers answer that for
// current.cvd.clamav.net, until the socket is closed.
func answerVersions(socket *net.UDPConn) {
	buffer := make([]byte, 512)
	for {
		n, from, err := socket.ReadFromUDPAddrPort(buffer)
		if err != nil {
			return
		}
		var message dnsmessage.Message
		if message.Unpack(buffer[:n]) != nil || len(message.Questions) != 1 {
			continue
		}
		question := message.Questions[0]
		message.Response, message.Authoritative, message.Additionals = true, true, nil
		message.Answers = []dnsmessage.Resource{{
			Header: dnsmessage.ResourceHeader{Name: question.Name, Type: dnsmessage.TypeTXT, Class: dnsmessage.ClassINET, TTL: 60},
			Body:   &dnsmessage.TXTResource{TXT: []string{"1.0.9:62:27800:1760000000:1:90:49192:339"}},
		}}
		if answer, err := message.Pack(); err == nil {
			_, _ = socket.WriteToUDPAddrPort(answer, from)
		}
	}
}
