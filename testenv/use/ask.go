package main

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
)

const askTimeout = 5 * time.Second

// get fetches a page, prints and returns it.
func get(url string, host ...string) (string, error) {
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}} //nolint:gosec // Traefik's own certificate is nobody's
	if len(host) > 0 {
		req.Host, transport.TLSClientConfig.ServerName = host[0], host[0]
	}
	res, err := (&http.Client{Timeout: askTimeout, Transport: transport}).Do(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %.200s", url, res.Status, body)
	}
	fmt.Printf("%s\n", body)
	return string(body), err
}

// find looks for a text in a page.
func find(url, text string) error {
	body, err := get(url)
	if err == nil && !strings.Contains(body, text) {
		err = fmt.Errorf("%s: %q is not in it", url, text)
	}
	return err
}

// askTime asks a time server as RFC 4330 says, and looks whether its clock is the machine's: all of a
// test's nodes have the same.
func askTime(host string) error {
	conn, err := net.DialTimeout("udp", net.JoinHostPort(host, "123"), askTimeout)
	if err != nil {
		return err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(askTimeout))
	question := make([]byte, 48)
	question[0] = 4<<3 | 3 // version 4, client
	if _, err := conn.Write(question); err != nil {
		return err
	}
	answer := make([]byte, 48)
	if _, err := io.ReadFull(conn, answer); err != nil {
		return err
	}
	if mode := answer[0] & 7; mode != 4 {
		return fmt.Errorf("mode %d is no server's", mode)
	}
	if answer[1] == 0 || answer[1] > 15 {
		return fmt.Errorf("stratum %d: it does not serve time", answer[1])
	}
	// Seconds since 1900, in 32 bits, at byte 40.
	seconds := int64(answer[40])<<24 | int64(answer[41])<<16 | int64(answer[42])<<8 | int64(answer[43])
	const from1900to1970 = 2208988800
	if off := seconds - from1900to1970 - time.Now().Unix(); off < -5 || off > 5 {
		return fmt.Errorf("its clock is %d s away", off)
	}
	return nil
}
