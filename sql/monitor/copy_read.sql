-- What a witness keeps a copy of, as the primary has it: the nodes, the pause, the newest events; apart from that what
-- the nodes say of themselves, which changes all the time.
SELECT (SELECT system_identifier::text FROM pg_control_system()) AS system_identifier,
       ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int8 & 4294967295 AS timeline,
       json_build_object(
           'nodes', (SELECT coalesce(json_agg(entry ORDER BY entry.id), '[]'::json) FROM pgwarm.nodes AS entry),
           'pauses', (SELECT coalesce(json_agg(entry), '[]'::json) FROM pgwarm.pauses AS entry),
           'events', (
               SELECT coalesce(json_agg(entry ORDER BY entry.id), '[]'::json)
                 FROM (SELECT * FROM pgwarm.events ORDER BY id DESC LIMIT 200) AS entry))::text AS roster,
       (SELECT coalesce(json_agg(entry), '[]'::json) FROM pgwarm.reports AS entry)::text AS reports
