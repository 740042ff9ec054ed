-- Writes down a change that was told while no primary could be written to. The state counts only where nothing newer is
-- known: somebody else may have told since that it is well again.
WITH changed AS (
    INSERT INTO pgwarm.states AS known (subject, state, since)
    VALUES ($1::text, $2::text, $6::text::timestamptz)
    ON CONFLICT (subject) DO UPDATE
       SET state = EXCLUDED.state,
           since = EXCLUDED.since
     WHERE known.since < EXCLUDED.since
)
INSERT INTO pgwarm.events (node_id, node_name, event, successful, happened_at, observer, details)
SELECT (SELECT id FROM pgwarm.nodes WHERE name = $3::text),
       $3::text, $4::text, $5::bool, $6::text::timestamptz, $7::text, $8::text
