-- Registers a node, or writes down anew what it is.
INSERT INTO pgwarm.nodes AS known (id, name, kind, role, upstream_id, conninfo, slot_name)
VALUES ($1::int4, $2::text, $3::text, $4::text, $5::int4, $6::text, $7::text)
ON CONFLICT (name) DO UPDATE
   SET id = EXCLUDED.id,
       kind = EXCLUDED.kind,
       role = EXCLUDED.role,
       upstream_id = EXCLUDED.upstream_id,
       conninfo = EXCLUDED.conninfo,
       slot_name = EXCLUDED.slot_name,
       active = true,
       registered_at = now()
