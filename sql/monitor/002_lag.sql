-- Step 2 of the monitor's schema: lag over time, what each node says of itself, pauses, and the views.
CREATE TABLE pgwarm.lag_history (
    node_id int4 NOT NULL REFERENCES pgwarm.nodes (id) ON DELETE CASCADE,
    sampled_at timestamptz NOT NULL,
    primary_id int4,
    timeline int8,
    primary_lsn pg_lsn NOT NULL,
    sent_lsn pg_lsn,
    written_lsn pg_lsn,
    flushed_lsn pg_lsn,
    replayed_lsn pg_lsn,
    archived_lsn pg_lsn,
    relayed_lsn pg_lsn,
    restorable_lsn pg_lsn,
    received_seconds float8,
    replayed_seconds float8,
    archived_seconds float8,
    replayed_at timestamptz,
    PRIMARY KEY (node_id, sampled_at)
);
COMMENT ON TABLE pgwarm.lag_history IS
    'How far each node was, every monitor.history; bounded by monitor.keep. Null is unknown or not on this path, never 0.';

CREATE TABLE pgwarm.reports (
    node_id int4 PRIMARY KEY REFERENCES pgwarm.nodes (id) ON DELETE CASCADE,
    reported_at timestamptz NOT NULL,
    report jsonb NOT NULL
);
COMMENT ON TABLE pgwarm.reports IS 'What the daemon of each node last said of its archive, queues, backups and drills.';

CREATE TABLE pgwarm.pauses (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    since timestamptz NOT NULL DEFAULT clock_timestamp(),
    until timestamptz,
    node_name text NOT NULL,
    reason text NOT NULL DEFAULT ''
);
COMMENT ON TABLE pgwarm.pauses IS 'One row while the monitor is paused: it watches on, and tells and decides nothing.';

CREATE VIEW pgwarm.replication_status AS
SELECT last.primary_id AS primary_node_id,
       node.id AS standby_node_id,
       node.name AS standby_name,
       node.role AS node_type,
       node.active,
       last.sampled_at AS last_monitor_time,
       last.primary_lsn AS last_wal_primary_location,
       coalesce(last.flushed_lsn, last.written_lsn) AS last_wal_standby_location,
       last.replayed_lsn AS last_wal_replayed_location,
       last.archived_lsn AS last_wal_archived_location,
       last.restorable_lsn AS last_wal_restorable_location,
       (last.primary_lsn - coalesce(last.flushed_lsn, last.written_lsn))::int8 AS replication_lag_bytes,
       (last.primary_lsn - last.replayed_lsn)::int8 AS replay_lag_bytes,
       (last.primary_lsn - coalesce(last.relayed_lsn, last.archived_lsn))::int8 AS archive_lag_bytes,
       last.received_seconds AS replication_lag_seconds,
       last.replayed_seconds AS replay_lag_seconds,
       last.archived_seconds AS archive_lag_seconds,
       clock_timestamp() - last.sampled_at AS communication_time_lag
  FROM pgwarm.nodes AS node
  LEFT JOIN LATERAL (
       SELECT history.*
         FROM pgwarm.lag_history AS history
        WHERE history.node_id = node.id
        ORDER BY history.sampled_at DESC
        LIMIT 1) AS last ON true
 WHERE node.role <> 'primary';
COMMENT ON VIEW pgwarm.replication_status IS 'The newest row of lag_history for each node, with lag in bytes and seconds.';

CREATE VIEW pgwarm.repl_nodes AS
SELECT node.id,
       node.role AS type,
       node.upstream_id AS upstream_node_id,
       meta.cluster,
       node.name,
       coalesce(node.conninfo, '') AS conninfo,
       node.slot_name,
       node.priority,
       node.active,
       node.role = 'witness' AS witness
  FROM pgwarm.nodes AS node
 CROSS JOIN pgwarm.meta AS meta;
COMMENT ON VIEW pgwarm.repl_nodes IS 'The nodes with the columns of repmgr 2 and 3.';

CREATE VIEW pgwarm.repl_monitor AS
SELECT primary_id AS primary_node,
       node_id AS standby_node,
       sampled_at AS last_monitor_time,
       replayed_at AS last_apply_time,
       primary_lsn::text AS last_wal_primary_location,
       coalesce(flushed_lsn, written_lsn, archived_lsn)::text AS last_wal_standby_location,
       (primary_lsn - coalesce(flushed_lsn, written_lsn, archived_lsn))::int8 AS replication_lag,
       (coalesce(flushed_lsn, written_lsn, archived_lsn) - replayed_lsn)::int8 AS apply_lag
  FROM pgwarm.lag_history;
COMMENT ON VIEW pgwarm.repl_monitor IS 'The history of lag with the columns of repmgr 2 and 3.';

CREATE VIEW pgwarm.repl_status AS
SELECT status.primary_node_id AS primary_node,
       status.standby_node_id AS standby_node,
       status.standby_name,
       status.node_type,
       status.active,
       status.last_monitor_time,
       status.last_wal_primary_location::text AS last_wal_primary_location,
       coalesce(status.last_wal_standby_location, status.last_wal_archived_location)::text AS last_wal_standby_location,
       pg_size_pretty(coalesce(status.replication_lag_bytes, status.archive_lag_bytes)) AS replication_lag,
       make_interval(secs => coalesce(status.replay_lag_seconds, status.archive_lag_seconds)) AS replication_time_lag,
       pg_size_pretty(status.replay_lag_bytes - coalesce(status.replication_lag_bytes, 0)) AS apply_lag,
       status.communication_time_lag
  FROM pgwarm.replication_status AS status;
COMMENT ON VIEW pgwarm.repl_status IS 'The newest lag with the columns of repmgr 3.';

CREATE VIEW pgwarm.repl_events AS
SELECT node_id, event, successful, happened_at AS event_timestamp, details FROM pgwarm.events;
COMMENT ON VIEW pgwarm.repl_events IS 'The events with the columns of repmgr 3.';
