-- What a node is and how far it has come, in one row. Works on PostgreSQL 13 and later, on a primary and on a standby.
-- Settings come from pg_settings: a role that may not see one gets NULL instead of an error.
WITH recovery AS MATERIALIZED (
    SELECT pg_is_in_recovery() AS active
), settings AS (
    SELECT max(setting) FILTER (WHERE name = 'archive_mode') AS archive_mode,
           max(setting) FILTER (WHERE name = 'archive_command') AS archive_command,
           max(setting) FILTER (WHERE name = 'archive_library') AS archive_library,
           max(setting) FILTER (WHERE name = 'restore_command') AS restore_command,
           max(setting) FILTER (WHERE name = 'data_directory') AS data_directory,
           max(setting) FILTER (WHERE name = 'wal_segment_size') AS wal_segment_size,
           max(setting) FILTER (WHERE name = 'server_version_num') AS server_version_num
      FROM pg_settings
)
SELECT settings.server_version_num::int4 AS version,
       recovery.active AS in_recovery,
       control.system_identifier AS system_identifier,
       -- A primary says it at once; a standby knows it from the stream or from its last restartpoint.
       CASE WHEN recovery.active
            THEN greatest(checkpoint.timeline_id::int8, receiver.received_tli::int8, control_recovery.min_recovery_end_timeline::int8)
            ELSE ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int8 & 4294967295
       END AS timeline,
       CASE WHEN recovery.active THEN NULL ELSE pg_current_wal_lsn()::text END AS current_lsn,
       CASE WHEN recovery.active THEN pg_last_wal_replay_lsn()::text END AS replayed_lsn,
       CASE WHEN recovery.active THEN pg_last_wal_receive_lsn()::text END AS received_lsn,
       extract(epoch FROM pg_last_xact_replay_timestamp())::float8 AS replayed_at,
       settings.archive_mode,
       settings.archive_command,
       settings.archive_library,
       settings.restore_command,
       settings.data_directory,
       settings.wal_segment_size::int8 AS wal_segment_size,
       archiver.archived_count,
       archiver.last_archived_wal,
       extract(epoch FROM archiver.last_archived_time)::float8 AS last_archived_at,
       archiver.failed_count,
       archiver.last_failed_wal,
       extract(epoch FROM archiver.last_failed_time)::float8 AS last_failed_at
  FROM recovery
 CROSS JOIN settings
 CROSS JOIN pg_control_system() AS control
 CROSS JOIN pg_control_checkpoint() AS checkpoint
 CROSS JOIN pg_control_recovery() AS control_recovery
 CROSS JOIN pg_stat_archiver AS archiver
  LEFT JOIN pg_stat_wal_receiver AS receiver ON true
