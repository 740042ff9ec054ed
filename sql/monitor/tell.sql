-- Writes an event down, unless its subject was told to be in that state already: of several daemons that see a change
-- one gets a row back, and that one tells of it. The states of two changes of one subject wait for each other.
WITH changed AS (
    INSERT INTO pgwarm.states AS known (subject, state, since)
    VALUES ($1::text, $2::text, $6::text::timestamptz)
    ON CONFLICT (subject) DO UPDATE
       SET state = EXCLUDED.state,
           since = EXCLUDED.since
     WHERE known.state <> EXCLUDED.state
    RETURNING subject
)
INSERT INTO pgwarm.events (node_id, node_name, event, successful, happened_at, observer, details)
SELECT (SELECT id FROM pgwarm.nodes WHERE name = $3::text),
       $3::text, $4::text, $5::bool, $6::text::timestamptz, $7::text, $8::text
  FROM changed
RETURNING id, node_id
