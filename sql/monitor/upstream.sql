-- Writes down which node a standby follows now.
UPDATE pgwarm.nodes
   SET upstream_id = (SELECT upstream.id FROM pgwarm.nodes AS upstream WHERE upstream.name = $2::text)
 WHERE name = $1::text
