// Package postgresql is the engine of PostgreSQL, 14 to 18, on its official
// image: what the agent in a member's container (package memberagent) needs to
// know to make a database, copy it to a standby, start, probe and stop it, promote a
// standby and make a former primary one.
//
// In the data volume:
//
//	pgdata                the data directory (PGDATA)
//	pgdata.new            one that is being made; renamed when it is whole
//	pgdata.copied         a whole one that is to replace pgdata
//	pgdata.replaced       the one that was replaced and is being deleted
//	pgdata.rejoin         there while pg_rewind may have changed pgdata
//	pgdata.promotion      there while the server becomes the primary
//	replication.pgpass    with which a standby reaches its primary
//	superuser.pgpass      there while pg_rewind reads from the primary
//	openmanage.lock       the agent's
//
// In pgdata, postgresql.conf stays the user's and includes openmanage.conf at its
// end, which is written at each start, as are pg_hba.conf and pg_ident.conf.
package postgresql
