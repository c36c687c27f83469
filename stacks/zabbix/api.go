package zabbix

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
)

// maxAnswer bounds what is read of an answer.
const maxAnswer = 64 << 20

// client speaks Zabbix's JSON-RPC (documentation/7.0, "API"). What it says of an error
// never has a parameter in it, since some are passwords.
type client struct {
	url   string
	http  *http.Client
	token string // of the session; "": none
}

// apiError is what Zabbix answers instead of a result.
type apiError struct {
	Code    int    `json:"code"`
	Message string `json:"message"`
	Data    string `json:"data"`

	method string
}

func (e *apiError) Error() string {
	return fmt.Sprintf("%s: %s %s", e.method, e.Message, strings.Join(strings.Fields(e.Data), " "))
}

// Codes of errors that say: as asked, this will not be done. All others mean that
// Zabbix cannot work at this moment, for example because its database is not there.
const (
	codeParameters  = -32602
	codeApplication = -32500
)

// refused tells whether Zabbix has understood, and will not do it.
func refused(err error) bool {
	var e *apiError
	return errors.As(err, &e) && (e.Code == codeParameters || e.Code == codeApplication)
}

// openMethods are called without a session.
var openMethods = map[string]bool{"user.login": true, "user.checkAuthentication": true}

// call has a method carried out. result may be nil.
func (c *client) call(ctx context.Context, method string, params, result any) error {
	body, err := json.Marshal(map[string]any{"jsonrpc": "2.0", "method": method, "params": params, "id": 1})
	if err != nil {
		return fmt.Errorf("%s: %w", method, err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("%s: %w", method, err)
	}
	req.Header.Set("Content-Type", "application/json-rpc")
	if !openMethods[method] {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	res, err := c.http.Do(req)
	if err != nil {
		return fmt.Errorf("%s: %w", method, err)
	}
	defer res.Body.Close()
	doc, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("%s: %w", method, err)
	}
	var answer struct {
		Result json.RawMessage `json:"result"`
		Error  *apiError       `json:"error"`
	}
	if res.StatusCode != http.StatusOK || json.Unmarshal(doc, &answer) != nil {
		return fmt.Errorf("%s: the web front end answers %s, which is not its API's", method, res.Status)
	}
	if answer.Error != nil {
		answer.Error.method = method
		return answer.Error
	}
	if result == nil {
		return nil
	}
	if err := json.Unmarshal(answer.Result, result); err != nil {
		return fmt.Errorf("%s: the result cannot be read: %w", method, err)
	}
	return nil
}

// login begins a session, and returns the user's ID.
func (c *client) login(ctx context.Context, user, password string) (userID string, err error) {
	var session struct {
		UserID    string `json:"userid"`
		SessionID string `json:"sessionid"`
	}
	err = c.call(ctx, "user.login", map[string]any{"username": user, "password": password, "userData": true}, &session)
	c.token = session.SessionID
	return session.UserID, err
}

// alive tells whether the session can be used still, and prolongs it.
func (c *client) alive(ctx context.Context) (bool, error) {
	if c.token == "" {
		return false, nil
	}
	err := c.call(ctx, "user.checkAuthentication", map[string]any{"sessionid": c.token}, nil)
	if refused(err) {
		return false, nil
	}
	return err == nil, err
}

// logout ends the session.
func (c *client) logout(ctx context.Context) error {
	if c.token == "" {
		return nil
	}
	err := c.call(ctx, "user.logout", []any{}, nil)
	c.token = ""
	return err
}

// create makes an object and returns its ID, which stands in the field ids of the result.
func (c *client) create(ctx context.Context, object, ids string, params any) (string, error) {
	var result map[string][]string
	if err := c.call(ctx, object+".create", params, &result); err != nil {
		return "", err
	}
	if len(result[ids]) == 0 {
		return "", fmt.Errorf("%s.create: the result has no %s", object, ids)
	}
	return result[ids][0], nil
}

// find returns the IDs of objects that a filter fits.
func (c *client) find(ctx context.Context, object, id string, filter map[string]any) ([]string, error) {
	return c.findWith(ctx, object, id, map[string]any{"filter": filter})
}

// findWith is find with any parameters of the get method.
func (c *client) findWith(ctx context.Context, object, id string, params map[string]any) ([]string, error) {
	params["output"] = []string{id}
	var found []map[string]any
	if err := c.call(ctx, object+".get", params, &found); err != nil {
		return nil, err
	}
	ids := make([]string, len(found))
	for i := range found {
		ids[i] = fmt.Sprint(found[i][id])
	}
	return ids, nil
}

// ensure finds an object or makes it. Who else makes it at the same moment is no trouble.
func ensure(find func() (string, error), create func() (string, error)) (string, error) {
	if id, err := find(); err != nil || id != "" {
		return id, err
	}
	id, err := create()
	if !refused(err) {
		return id, err
	}
	if other, findErr := find(); findErr == nil && other != "" {
		return other, nil
	}
	return "", err
}
