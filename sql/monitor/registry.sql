-- The registered nodes, the pause and what each node last said of itself, as JSON.
SELECT json_build_object(
           'version', meta.version,
           'cluster', meta.cluster,
           'nodes', (
               SELECT coalesce(json_agg(json_build_object(
                          'id', id, 'name', name, 'kind', kind, 'role', role, 'upstream_id', upstream_id,
                          'conninfo', conninfo, 'active', active) ORDER BY id), '[]'::json)
                 FROM pgwarm.nodes),
           'pause', (
               SELECT json_build_object('since', since, 'until', until, 'node', node_name, 'reason', reason)
                 FROM pgwarm.pauses
                WHERE until IS NULL OR until > clock_timestamp()),
           'reports', (
               SELECT coalesce(json_object_agg(node.name, json_build_object(
                          'age', extract(epoch FROM clock_timestamp() - given.reported_at)::float8,
                          'report', given.report)), '{}'::json)
                 FROM pgwarm.reports AS given
                 JOIN pgwarm.nodes AS node ON node.id = given.node_id)
       )::text AS registry
  FROM pgwarm.meta AS meta
