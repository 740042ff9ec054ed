-- Writes down an event that is no change of a state.
INSERT INTO pgwarm.events (node_id, node_name, event, successful, happened_at, observer, details)
SELECT (SELECT id FROM pgwarm.nodes WHERE name = $1::text),
       $1::text, $2::text, $3::bool, $4::text::timestamptz, $5::text, $6::text
RETURNING id, node_id
