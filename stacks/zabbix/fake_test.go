package zabbix

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
)

// object is one in Zabbix, with the fields of its API.
type object = map[string]any

// fakeZabbix answers as the API of Zabbix 7.0 does, as far as the provisioner uses it: it keeps
// what it is told, lets nobody in without a session, and refuses what it does not know.
type fakeZabbix struct {
	*httptest.Server
	t *testing.T

	mu       sync.Mutex
	password string
	sessions map[string]bool
	objects  map[string][]object // by type: host, item…
	history  map[string]any      // HOST/KEY: the last value
	last     int                 // the last ID
	calls    []string            // methods, in order
	logins   []string            // passwords that were tried
	// down: the front end has no API. fail: what the next call of a method answers instead.
	down bool
	fail map[string]object
	// lagging: the server does not know new hosts.
	lagging bool
}

func newFakeZabbix(t *testing.T) *fakeZabbix {
	f := &fakeZabbix{t: t, password: initialPassword, sessions: map[string]bool{}, objects: map[string][]object{}, history: map[string]any{}, fail: map[string]object{}, last: 10000}
	f.Server = httptest.NewServer(f)
	t.Cleanup(f.Close)
	f.add("template", object{"host": linuxTemplate})
	f.add("template", object{"host": "Linux by Zabbix agent"})
	return f
}

// add makes an object as a user would. The caller holds the lock, or is alone.
func (f *fakeZabbix) add(kind string, o object) string {
	f.last++
	id := fmt.Sprint(f.last)
	o[idOf[kind]] = id
	f.objects[kind] = append(f.objects[kind], o)
	return id
}

var idOf = map[string]string{
	"host": "hostid", "template": "templateid", "item": "itemid", "trigger": "triggerid", "hostgroup": "groupid", "templategroup": "groupid", "user": "userid",
}

// parameters are all that a method takes here; ! marks those that must be there.
var parameters = map[string]string{
	"user.login":               "!username !password userData",
	"user.checkAuthentication": "!sessionid",
	"user.logout":              "",
	"user.update":              "!userid current_passwd !passwd",
	"hostgroup.get":            "output filter",
	"hostgroup.create":         "!name",
	"templategroup.get":        "output filter",
	"templategroup.create":     "!name",
	"template.get":             "output filter",
	"template.create":          "!host !groups description",
	"item.get":                 "output filter templateids",
	"item.create":              "!hostid !type !key_ !name !value_type units description",
	"trigger.get":              "output filter templateids",
	"trigger.create":           "!description !expression priority",
	"host.get":                 "output filter hostids tags evaltype selectTags selectHostGroups selectParentTemplates",
	"host.create":              "!host !groups templates tags status",
	"host.update":              "!hostid groups templates tags status",
	"history.push":             "!host !key !value",
}

func (f *fakeZabbix) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.down {
		http.Error(w, "<html>bad gateway</html>", http.StatusBadGateway)
		return
	}
	if r.Header.Get("Content-Type") != "application/json-rpc" {
		w.WriteHeader(http.StatusPreconditionFailed)
		return
	}
	var request struct {
		Version string          `json:"jsonrpc"`
		Method  string          `json:"method"`
		Params  json.RawMessage `json:"params"`
		ID      *int            `json:"id"`
	}
	body, _ := io.ReadAll(r.Body)
	if err := json.Unmarshal(body, &request); err != nil || request.Version != "2.0" || request.ID == nil {
		f.t.Errorf("no JSON-RPC: %s", body)
	}
	f.calls = append(f.calls, request.Method)
	answer := object{"jsonrpc": "2.0", "id": request.ID}
	result, refusal := f.serve(request.Method, request.Params, r.Header.Get("Authorization"))
	if refusal != nil {
		answer["error"] = refusal
	} else {
		answer["result"] = result
	}
	_ = json.NewEncoder(w).Encode(answer)
}

func refuse(code int, data string) object {
	message := map[int]string{codeParameters: "Invalid params.", codeApplication: "Application error.", -32601: "Method not found.", -32603: "Internal error."}[code]
	return object{"code": code, "message": message, "data": data}
}

func (f *fakeZabbix) serve(method string, raw json.RawMessage, authorization string) (any, object) {
	if refusal := f.fail[method]; refusal != nil {
		delete(f.fail, method)
		return nil, refusal
	}
	open := method == "user.login" || method == "user.checkAuthentication"
	token, bearer := strings.CutPrefix(authorization, "Bearer ")
	switch {
	case open && authorization != "":
		f.t.Errorf("%s with a session", method)
	case !open && (!bearer || !f.sessions[token]):
		return nil, refuse(codeParameters, "Not authorized.")
	}
	if method == "host.delete" {
		var ids []string
		_ = json.Unmarshal(raw, &ids)
		return f.remove(ids)
	}
	all, refusal := f.read(method, raw)
	if refusal != nil {
		return nil, refusal
	}
	kind, verb, _ := strings.Cut(method, ".")
	switch {
	case method == "history.push":
		return f.push(all), nil
	case kind == "user":
		return f.user(verb, token, all)
	case verb == "get":
		return f.get(kind, all[0]), nil
	case verb == "create":
		return f.create(kind, all[0])
	}
	return f.update(kind, all[0])
}

// read makes objects of parameters, and refuses those that are unknown or missing.
func (f *fakeZabbix) read(method string, raw json.RawMessage) ([]object, object) {
	words, ok := parameters[method]
	if !ok {
		f.t.Errorf("method %s", method)
		return nil, refuse(-32601, "The requested remote-procedure does not exist / is not available")
	}
	var all []object
	if err := json.Unmarshal(raw, &all); err != nil {
		var one object
		if err := json.Unmarshal(raw, &one); err != nil {
			return nil, refuse(codeParameters, "an array or an object is expected")
		}
		all = []object{one}
	}
	if len(all) == 0 {
		all = []object{{}}
	}
	for _, o := range all {
		left := len(o)
		for word := range strings.FieldsSeq(words) {
			name, needed := strings.CutPrefix(word, "!")
			if _, has := o[name]; has {
				left--
			} else if needed {
				f.t.Errorf("%s without %s", method, name)
				return nil, refuse(codeParameters, `Invalid parameter "/1": the parameter "`+name+`" is missing.`)
			}
		}
		if left > 0 {
			f.t.Errorf("%s with something unknown: %v", method, o)
			return nil, refuse(codeParameters, `Invalid parameter "/1": unexpected parameter.`)
		}
	}
	return all, nil
}

func (f *fakeZabbix) user(verb, token string, all []object) (any, object) {
	o := all[0]
	switch verb {
	case "login":
		f.logins = append(f.logins, o["password"].(string))
		if o["username"] != admin || o["password"] != f.password {
			return nil, refuse(codeApplication, "Incorrect user name or password or account is temporarily blocked.")
		}
		f.last++
		session := fmt.Sprintf("session%d", f.last)
		f.sessions[session] = true
		return object{"userid": "1", "username": admin, "sessionid": session, "type": 3, "debug_mode": 0}, nil
	case "checkAuthentication":
		if !f.sessions[o["sessionid"].(string)] {
			return nil, refuse(codeParameters, "Session terminated, re-login, please.")
		}
		return object{"userid": "1", "sessionid": o["sessionid"]}, nil
	case "logout":
		delete(f.sessions, token)
		return true, nil
	}
	switch {
	case o["userid"] != "1":
		return nil, refuse(codeApplication, "No permissions to referred object or it does not exist!")
	case o["current_passwd"] == nil:
		return nil, refuse(codeParameters, "Current password is mandatory.")
	case o["current_passwd"] != f.password:
		return nil, refuse(codeParameters, "Incorrect current password.")
	case len(o["passwd"].(string)) < 8:
		return nil, refuse(codeParameters, `Incorrect value for field "/1/passwd": must be at least 8 characters long.`)
	}
	f.password = o["passwd"].(string)
	clear(f.sessions)
	return object{"userids": []string{"1"}}, nil
}

// strings of a JSON array.
func words(value any) []string {
	var all []string
	list, _ := value.([]any)
	for _, v := range list {
		all = append(all, fmt.Sprint(v))
	}
	return all
}

// objectsIn are those of a JSON array.
func objectsIn(value any) []object {
	var all []object
	list, _ := value.([]any)
	for _, v := range list {
		all = append(all, v.(object))
	}
	return all
}

func (f *fakeZabbix) get(kind string, params object) any {
	found := []object{}
	for _, o := range f.objects[kind] {
		filter, _ := params["filter"].(object)
		fits := true
		for field, values := range filter {
			fits = fits && slices.Contains(words(values), fmt.Sprint(o[field]))
		}
		if ids := params["templateids"]; ids != nil {
			fits = fits && slices.Contains(words(ids), fmt.Sprint(o["hostid"]))
		}
		if ids := params["hostids"]; ids != nil {
			fits = fits && slices.Contains(words(ids), fmt.Sprint(o["hostid"]))
		}
		if tags := objectsIn(params["tags"]); tags != nil {
			fits = fits && slices.ContainsFunc(tags, func(want object) bool {
				return slices.ContainsFunc(objectsIn(o["tags"]), func(has object) bool { return has["tag"] == want["tag"] && has["value"] == want["value"] })
			})
		}
		if !fits {
			continue
		}
		shown := object{}
		for _, field := range words(params["output"]) {
			shown[field] = fmt.Sprint(o[field])
		}
		for parameter, field := range map[string][2]string{"selectTags": {"tags", "tags"}, "selectHostGroups": {"groups", "hostgroups"}, "selectParentTemplates": {"templates", "parentTemplates"}} {
			if params[parameter] != nil {
				shown[field[1]] = o[field[0]]
			}
		}
		found = append(found, shown)
	}
	return found
}

// uniqueBy are the fields of which two objects of a type may not have the same.
var uniqueBy = map[string][]string{
	"host": {"host"}, "template": {"host"}, "hostgroup": {"name"}, "templategroup": {"name"}, "item": {"hostid", "key_"}, "trigger": {"description", "expression"},
}

func (f *fakeZabbix) create(kind string, o object) (any, object) {
	for _, other := range f.objects[kind] {
		same := true
		for _, field := range uniqueBy[kind] {
			same = same && fmt.Sprint(other[field]) == fmt.Sprint(o[field])
		}
		if same {
			return nil, refuse(codeParameters, "Object with the same name already exists.")
		}
	}
	if kind == "trigger" { // it belongs to the template that its expression names
		_, rest, _ := strings.Cut(o["expression"].(string), "(/")
		name, _, _ := strings.Cut(rest, "/")
		for _, t := range f.objects["template"] {
			if t["host"] == name {
				o["hostid"] = t["templateid"]
			}
		}
		if o["hostid"] == nil {
			return nil, refuse(codeParameters, "Incorrect item key or host in expression.")
		}
	}
	return object{idOf[kind] + "s": []string{f.add(kind, o)}}, nil
}

func (f *fakeZabbix) update(kind string, o object) (any, object) {
	for _, is := range f.objects[kind] {
		if is[idOf[kind]] == o[idOf[kind]] {
			for field, value := range o {
				is[field] = value
			}
			return object{idOf[kind] + "s": []any{is[idOf[kind]]}}, nil
		}
	}
	return nil, refuse(codeApplication, "No permissions to referred object or it does not exist!")
}

func (f *fakeZabbix) remove(ids []string) (any, object) {
	before := len(f.objects["host"])
	f.objects["host"] = slices.DeleteFunc(f.objects["host"], func(o object) bool { return slices.Contains(ids, o["hostid"].(string)) })
	if before-len(f.objects["host"]) != len(ids) {
		return nil, refuse(codeApplication, "No permissions to referred object or it does not exist!")
	}
	return object{"hostids": ids}, nil
}

// push takes a value if the host has a template with that item.
func (f *fakeZabbix) push(values []object) any {
	data := []object{}
	for _, v := range values {
		taken := object{"error": "No permissions to referred object or it does not exist."}
		for _, h := range f.objects["host"] {
			for _, i := range f.objects["item"] {
				linked := slices.ContainsFunc(objectsIn(h["templates"]), func(t object) bool { return t["templateid"] == i["hostid"] })
				if h["host"] == v["host"] && i["key_"] == v["key"] && linked && !f.lagging {
					f.history[fmt.Sprintf("%s/%s", v["host"], v["key"])] = v["value"]
					taken = object{"itemid": i["itemid"]}
				}
			}
		}
		data = append(data, taken)
	}
	return object{"response": "success", "data": data}
}

// hostNamed returns a copy of a host, or nil.
func (f *fakeZabbix) hostNamed(name string) object {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, h := range f.objects["host"] {
		if h["host"] == name {
			doc, _ := json.Marshal(h)
			var copied object
			_ = json.Unmarshal(doc, &copied)
			return copied
		}
	}
	return nil
}

// hostNames are those of all hosts, in order.
func (f *fakeZabbix) hostNames() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	names := []string{}
	for _, h := range f.objects["host"] {
		names = append(names, h["host"].(string))
	}
	slices.Sort(names)
	return names
}

// change edits it under its lock.
func (f *fakeZabbix) change(edit func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	edit()
}

// called counts the calls of a method.
func (f *fakeZabbix) called(method string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for _, c := range f.calls {
		if c == method {
			n++
		}
	}
	return n
}
