-- Events, the newest first: of one node or all, of one name or all.
SELECT id, node_id, node_name, event, successful, happened_at::text AS happened_at,
       extract(epoch FROM happened_at)::float8 AS epoch, observer, details
  FROM pgwarm.events
 WHERE ($1::text IS NULL OR node_name = $1::text)
   AND ($2::text IS NULL OR event = $2::text)
 ORDER BY id DESC
 LIMIT $3::int8
