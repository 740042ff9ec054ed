-- What a server says of itself in one row, as JSON: asked of every node at every turn. PostgreSQL 14 and later, on a
-- primary and on a standby. What the role may not see is null.
SELECT json_build_object(
           'version', current_setting('server_version_num')::int4,
           'system_identifier', (SELECT system_identifier::text FROM pg_control_system()),
           'segment_size', pg_size_bytes(current_setting('wal_segment_size')),
           'started', extract(epoch FROM pg_postmaster_start_time())::float8,
           'in_recovery', recovery.active,
           'timeline', CASE WHEN recovery.active THEN (
                   -- A standby knows it from the stream or from its last restartpoint.
                   SELECT greatest(checkpoint.timeline_id::int8, receiver.received_tli::int8,
                                   reached.min_recovery_end_timeline::int8)
                     FROM pg_control_checkpoint() AS checkpoint
                    CROSS JOIN pg_control_recovery() AS reached
                     LEFT JOIN pg_stat_wal_receiver AS receiver ON true)
               ELSE ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int8 & 4294967295 END,
           'position', CASE WHEN NOT recovery.active THEN pg_current_wal_lsn()::text END,
           'received', CASE WHEN recovery.active THEN pg_last_wal_receive_lsn()::text END,
           'replayed', CASE WHEN recovery.active THEN pg_last_wal_replay_lsn()::text END,
           'replayed_age', CASE WHEN recovery.active THEN
               extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp())::float8 END,
           'pause', CASE WHEN recovery.active THEN pg_get_wal_replay_pause_state() END,
           'delay', extract(epoch FROM current_setting('recovery_min_apply_delay')::interval)::float8,
           'synchronous_standby_names', current_setting('synchronous_standby_names'),
           'archive_mode', current_setting('archive_mode'),
           'receiver', (
               SELECT json_build_object(
                          'status', status, 'host', sender_host, 'port', sender_port, 'slot', slot_name,
                          'conninfo', conninfo, 'written', written_lsn::text, 'flushed', flushed_lsn::text,
                          'heard_age', extract(epoch FROM clock_timestamp() - last_msg_receipt_time)::float8)
                 FROM pg_stat_wal_receiver),
           'senders', (
               SELECT coalesce(json_agg(json_build_object(
                          'name', sender.application_name, 'address', host(sender.client_addr), 'state', sender.state,
                          'sent', sender.sent_lsn::text, 'written', sender.write_lsn::text,
                          'flushed', sender.flush_lsn::text, 'replayed', sender.replay_lsn::text,
                          'write_lag', extract(epoch FROM sender.write_lag)::float8,
                          'flush_lag', extract(epoch FROM sender.flush_lag)::float8,
                          'replay_lag', extract(epoch FROM sender.replay_lag)::float8,
                          'sync_state', sender.sync_state, 'sync_priority', sender.sync_priority)
                      ORDER BY sender.application_name, sender.pid), '[]'::json)
                 FROM pg_stat_replication AS sender),
           'slots', (
               SELECT coalesce(json_agg(json_build_object(
                          'name', slot_name, 'type', slot_type, 'active', active, 'temporary', temporary,
                          'restart', restart_lsn::text, 'wal_status', wal_status, 'safe', safe_wal_size)
                      ORDER BY slot_name), '[]'::json)
                 FROM pg_replication_slots),
           'archiver', (
               SELECT json_build_object(
                          'archived', archived_count, 'last_archived', last_archived_wal,
                          'last_archived_age', extract(epoch FROM clock_timestamp() - last_archived_time)::float8,
                          'failed', failed_count, 'last_failed', last_failed_wal,
                          'last_failed_age', extract(epoch FROM clock_timestamp() - last_failed_time)::float8)
                 FROM pg_stat_archiver)
       )::text AS sample
  FROM (SELECT pg_is_in_recovery() AS active) AS recovery
