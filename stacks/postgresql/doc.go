// Package postgresql is the engine of PostgreSQL, 14 to 18, on its official
// image: what the agent in a member's container (package memberagent) needs to
// know to make a database, copy it to a standby, start, probe and stop it.
//
// In the data volume:
//
//	pgdata                the data directory (PGDATA)
//	pgdata.new            one that is being made; renamed when it is whole
//	replication.pgpass    with which a standby reaches its primary
//	openmanage.lock       the agent's
//
// In pgdata, postgresql.conf stays the user's and includes openmanage.conf at its
// end, which is written at each start, as are pg_hba.conf and pg_ident.conf.
package postgresql
