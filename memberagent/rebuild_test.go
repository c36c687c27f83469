package memberagent

import (
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"gotest.tools/v3/assert"

	"github.com/openmanage/openmanage/internal/api"
)

func TestAMemberCopiesByItselfWhenNothingComesOfItsQuestion(t *testing.T) {
	lease, now := testLease()
	a := &agent{lease: lease, log: hclog.NewNullLogger(), copy: copyAsked{primary: "pg-2", since: *now}}
	orders := api.MemberOrders{Primary: "pg-2", CopyOnOrder: true}
	*now += copyPatience - time.Second
	assert.Equal(t, a.copying(orders).Rebuild, "")
	*now += time.Second
	assert.Equal(t, a.copying(orders).Rebuild, ownCopy)
	ordered := orders
	ordered.Rebuild = "pg.one"
	assert.Equal(t, a.copying(ordered).Rebuild, "pg.one")
	// Another primary may have what is missing.
	orders.Primary = "pg-3"
	assert.Equal(t, a.copying(orders).Rebuild, "")
	assert.Equal(t, a.copy, copyAsked{})
}
